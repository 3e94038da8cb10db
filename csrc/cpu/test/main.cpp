// Runs every case at one level, or at all that this processor has. Exit code 1 if a check failed, 2 for a level that is none.
#include <chrono>
#include <cstring>

#include "check.h"
#include "level.h"

int main(int count, char** arguments) {
  using namespace deepport;
  int ran = 0;
  for (const Level& level : levels()) {
    if (!level.present() || (count > 1 && std::strcmp(arguments[1], level.name))) continue;
    for (const test::Case& one : test::cases()) {
      const int before = test::failures();
      const auto begin = std::chrono::steady_clock::now();
      one.run(*table(level.name));
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      std::printf("%-12s %-40s %6.2f s %s\n", level.name, one.name, took.count(), test::failures() == before ? "ok" : "FAILED");
    }
    ++ran;
  }
  if (!ran) std::fprintf(stderr, "this processor, or build, has no level %s\n", count > 1 ? arguments[1] : "");
  return ran ? test::failures() != 0 : 2;
}
