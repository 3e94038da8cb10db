// Host code that touches device memory: the fault is named, then the process ends as it would have, or goes on where that is allowed.
#include "trap.h"

#include <signal.h>
#include <unistd.h>

#include <string>

#include "memory.h"
#include "rules.h"
#include "staging.h"

namespace deepport::sim {
namespace {

struct sigaction before;

// Within a signal: whatever this asks for, the thread was in code of its own, and the process is about to end or has been told.
void tell(const char* rule, const std::string& text) {
  const std::string line = c10::str("deepport_sim: ", rule, ": ", text, "; by the innermost line of Python of this thread\n");
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

// Whether the access may be tried again.
bool settled(void* address) {
  if (const Block* const b = block_at(address)) {
    tell(name(Rule::host_access), c10::str("code of the host touches device memory at ", address, ", in the ", b->size, " bytes of ",
                                           *b->op, " at ", *b->site));
    return policy(Rule::host_access) != Policy::error && let_host_in(address);
  }
  const std::string awaited = awaited_at(address);
  if (awaited.empty()) return false;
  tell(name(Rule::staging), c10::str("code of the host touches pinned memory before it has waited for ", awaited));
  return policy(Rule::staging) != Policy::error && unbar(address);
}

void on_fault(int, siginfo_t* info, void*) {
  if (settled(info->si_addr)) return;
  sigaction(SIGSEGV, &before, nullptr);  // the access is tried again, and faults into who was there before, such as faulthandler
}

}  // namespace

void set_trap() {
  struct sigaction trap {};
  trap.sa_sigaction = on_fault;
  trap.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigaction(SIGSEGV, &trap, &before);
}

}  // namespace deepport::sim
