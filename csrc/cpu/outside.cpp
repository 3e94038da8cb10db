#include "outside.h"

#include <cstdarg>
#include <cstdio>
#include <stdexcept>

namespace deepport {

void outside(const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw std::out_of_range(message);
}

void unfit(const char* message) { throw std::invalid_argument(message); }

}  // namespace deepport
