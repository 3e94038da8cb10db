// Rules of a device's discipline, what is done where one is broken, and what was found so far.
#pragma once

#include <string>
#include <vector>

namespace deepport::sim {

// A rule, its name for people, and whether it is an error or allowed by default.
#define DEEPPORT_SIM_RULES(RULE)                   \
  RULE(mixed_devices, "mixed-devices", error)      \
  RULE(host_access, "host-access", error)          \
  RULE(implicit_sync, "implicit-sync", error)      \
  RULE(host_copy, "host-copy", allow)              \
  RULE(reference_sync, "reference-sync", allow)    \
  RULE(fallback, "fallback", error)                \
  RULE(stream_order, "stream-order", error)        \
  RULE(record_stream, "record-stream", error)      \
  RULE(staging, "staging", error)                  \
  RULE(uninitialised, "uninitialised", error)      \
  RULE(out_of_memory, "out-of-memory", error)

enum class Rule {
#define DEEPPORT_SIM_NAME(rule, name, policy) rule,
  DEEPPORT_SIM_RULES(DEEPPORT_SIM_NAME)
#undef DEEPPORT_SIM_NAME
      count
};

enum class Policy { allow, warn, error };

struct Finding {
  Rule rule;
  std::string op, site, text;
};

const char* name(Rule rule);
Policy policy(Rule rule);

// By their names; an error where there is no such rule or policy.
void set_policy(const std::string& rule, const std::string& policy);

// "rule: text; by op at site", as people read it.
std::string line(const Finding& finding);

// A rule was broken by the operator that is running (`Call`): remembered unless it is allowed, and raised where that is an error.
// Every rule raises RuntimeError but fallback, NotImplementedError, and out-of-memory, torch.OutOfMemoryError.
void report(Rule rule, const std::string& text);

// The same where nothing may be raised, such as when memory is freed: the next operator raises it, or the next synchronisation.
void defer(const Finding& finding);
void raise_deferred();

std::vector<Finding> findings();
void forget_findings();

}  // namespace deepport::sim
