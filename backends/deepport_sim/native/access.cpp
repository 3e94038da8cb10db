// Who used a block when: two streams that touch the same bytes, one of them writing, need a wait between them.
#include "call.h"
#include "memory.h"
#include "rules.h"

namespace deepport::sim {
namespace {

bool overlap(const Access& a, const Access& b) { return a.low < b.high && b.low < a.high; }
bool within(const Access& a, const Access& b) { return b.low <= a.low && a.high <= b.high; }

std::string clash(const Block& b, const Access& now, const Access& then) {
  return c10::str(b.size, " bytes of ", *b.op, " at ", *b.site, " are ", now.write ? "written" : "read", " on ",
                  told(now.stream), ", and were ", then.write ? "written" : "read", " on ", told(then.stream), " by ",
                  *then.op, " at ", *then.site, "; no wait orders the two");
}

}  // namespace

void touch(const at::Tensor& t, Key stream, uint64_t step, bool write) {
  Block* const b = block(t);
  if (!b) return;
  const Extent bytes = extent(t);
  const Access now{stream, step, write, bytes.low, bytes.high, &kept(Call::current_op()), &Call::current_site()};
  for (const Access& then : b->accesses)
    if ((write || then.write) && overlap(now, then) && !ordered(then.stream, then.step, stream))
      report(Rule::stream_order, clash(*b, now, then));
  // What this access stands for: whoever comes after it comes after those.
  auto& kept = b->accesses;
  kept.erase(std::remove_if(kept.begin(), kept.end(),
                            [&](const Access& a) { return within(a, now) && (write || (a.stream == stream && !a.write)); }),
             kept.end());
  kept.push_back(now);
}

}  // namespace deepport::sim
