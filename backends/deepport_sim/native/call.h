// The operator that a thread is running, and the line of Python that asked for it.
#pragma once

#include <string>
#include <vector>

namespace deepport::sim {

// `text` is "file:line". `reference`: the line belongs to an operator's reference, which says what is meant and not when.
struct Site {
  const std::string* text;
  bool reference;
};

// The innermost line of Python of this thread that is in none of the `machinery`; takes Python's lock.
Site here();

// Path prefixes: of files that only carry calls on, and of those that hold references.
void set_paths(std::vector<std::string> machinery, std::vector<std::string> references);

// Text that stays, for names that are compared and kept often.
const std::string& kept(const std::string& text);

// While it lives, findings are this operator's. An operator that another calls is the outer one's business.
class Call {
 public:
  explicit Call(const std::string& op);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  static const std::string& current_op();
  static const std::string& current_site();
  static bool in_reference();

 private:
  bool outermost_;
};

}  // namespace deepport::sim
