#include "level.h"

#include <cstdlib>
#include <stdexcept>

#include "level_list.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace deepport {
namespace {

// Each level's own test; a build may have fewer levels than there are tests.
[[maybe_unused]] bool scalar() { return true; }

#if defined(__x86_64__)

[[maybe_unused]] bool avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

[[maybe_unused]] bool avx512() {
  return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

unsigned leaf7(unsigned subleaf, int reg) {
  unsigned r[4] = {0, 0, 0, 0};
  __get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]);
  return r[reg];
}

[[maybe_unused]] bool avx512_bf16() {
  const bool bf16 = leaf7(1, 0) >> 5 & 1, vnni = leaf7(0, 2) >> 11 & 1;
  return avx512() && bf16 && vnni;
}

// The tiles' 8 KiB of state are the operating system's to grant, once a process.
[[maybe_unused]] bool amx() {
  const bool tile = leaf7(0, 3) >> 24 & 1, bf16 = leaf7(0, 3) >> 22 & 1, int8 = leaf7(0, 3) >> 25 & 1;
  constexpr long request_permission = 0x1023, tile_data = 18;
  static const bool granted = tile && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return avx512_bf16() && tile && bf16 && int8 && granted;
}

#elif defined(__aarch64__)

[[maybe_unused]] bool neon_bf16() {
  const unsigned long two = getauxval(AT_HWCAP2);
  return (two & HWCAP2_BF16) && (two & HWCAP2_I8MM) && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP);
}

#endif

std::string listed() {
  std::string names;
  for (const Level& level : levels())
    if (level.present()) names += (names.empty() ? "" : ", ") + std::string(level.name);
  return names;
}

const Level& choose() {
  const std::vector<Level>& all = levels();
  const char* asked = std::getenv("DEEPPORT_CPU_LEVEL");
  if (asked && *asked) {
    for (const Level& level : all)
      if (level.present() && asked == std::string(level.name)) return level;
    throw std::runtime_error("DEEPPORT_CPU_LEVEL=" + std::string(asked) + ": this processor and build have " + listed());
  }
  const Level* fastest = &all.front();
  for (const Level& level : all)
    if (level.present()) fastest = &level;
  return *fastest;
}

}  // namespace

const std::vector<Level>& levels() {
  static const std::vector<Level> all = {
#define DEEPPORT_ROW(name) {#name, name},
      DEEPPORT_LEVELS(DEEPPORT_ROW)
  };
  return all;
}

const Level& chosen() {
  static const Level& level = choose();
  return level;
}

}  // namespace deepport
