#include "rules.h"

#include <c10/util/Exception.h>

#include <array>
#include <optional>

#include "call.h"
#include "common.h"

namespace deepport::sim {
namespace {

constexpr size_t kRules = size_t(Rule::count);

struct Book {
  std::array<Policy, kRules> policies{
#define DEEPPORT_SIM_DEFAULT(rule, name, policy) Policy::policy,
      DEEPPORT_SIM_RULES(DEEPPORT_SIM_DEFAULT)
#undef DEEPPORT_SIM_DEFAULT
  };
  std::vector<Finding> found;
  std::optional<Finding> deferred;
};

Book& book() {
  static auto* const one = new Book();  // never destroyed: memory is freed as late as the interpreter likes
  return *one;
}

[[noreturn]] void raise(const Finding& finding) {
  const std::string told = line(finding);
  TORCH_CHECK_WITH(OutOfMemoryError, finding.rule != Rule::out_of_memory, told);
  TORCH_CHECK_NOT_IMPLEMENTED(finding.rule != Rule::fallback, told);
  TORCH_CHECK(false, told);
}

}  // namespace

const char* name(Rule rule) {
  static constexpr const char* names[] = {
#define DEEPPORT_SIM_TEXT(rule, name, policy) name,
      DEEPPORT_SIM_RULES(DEEPPORT_SIM_TEXT)
#undef DEEPPORT_SIM_TEXT
  };
  return names[size_t(rule)];
}

Policy policy(Rule rule) { return book().policies[size_t(rule)]; }

void set_policy(const std::string& rule, const std::string& policy) {
  static constexpr const char* policies[] = {"allow", "warn", "error"};
  for (size_t r = 0; r < kRules; ++r)
    for (size_t p = 0; p < 3; ++p)
      if (rule == name(Rule(r)) && policy == policies[p]) {
        const Lock lock(mutex());
        book().policies[r] = Policy(p);
        return;
      }
  TORCH_CHECK_VALUE(false, "no rule is called ", rule, ", or no policy ", policy, "; a policy is one of: allow, warn, error");
}

std::string line(const Finding& finding) {
  return c10::str("deepport_sim: ", name(finding.rule), ": ", finding.text, "; by ", finding.op, " at ", finding.site);
}

void report(Rule rule, const std::string& text) {
  const Policy todo = policy(rule);
  if (todo == Policy::allow) return;
  const Finding finding{rule, Call::current_op(), Call::current_site(), text};
  {
    const Lock lock(mutex());
    book().found.push_back(finding);
  }
  if (todo == Policy::error) raise(finding);
  TORCH_WARN(line(finding));
}

void defer(const Finding& finding) {
  const Lock lock(mutex());
  if (policy(finding.rule) == Policy::allow) return;
  book().found.push_back(finding);
  if (policy(finding.rule) == Policy::error && !book().deferred) book().deferred = finding;
  if (policy(finding.rule) == Policy::warn) TORCH_WARN(line(finding));
}

void raise_deferred() {
  std::optional<Finding> finding;
  {
    const Lock lock(mutex());
    std::swap(finding, book().deferred);
  }
  if (finding) raise(*finding);
}

std::vector<Finding> findings() {
  const Lock lock(mutex());
  return book().found;
}

void forget_findings() {
  const Lock lock(mutex());
  book().found.clear();
  book().deferred.reset();
}

}  // namespace deepport::sim
