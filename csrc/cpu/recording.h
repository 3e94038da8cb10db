// Calls of kernels, kept to be made again: with the same memory, and what it holds by then.
#pragma once

#include <functional>
#include <vector>

namespace deepport {

// While a recording is under way in a thread, every kernel that the thread calls is computed and noted. `replay` makes the calls
// again, in order, at the cost of one indirect call each. Memory that they use must live as long as the recording.
class Recording {
 public:
  static Recording*& current() {
    static thread_local Recording* recording = nullptr;
    return recording;
  }

  void note(std::function<void()> call) { calls_.push_back(std::move(call)); }

  void replay() const {
    for (const std::function<void()>& call : calls_) call();
  }

  size_t size() const { return calls_.size(); }

 private:
  std::vector<std::function<void()>> calls_;
};

}  // namespace deepport
