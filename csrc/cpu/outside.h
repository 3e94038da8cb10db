// Refusals of data. Compiled once and not at every level: messages are made by templates of the standard library, which the linker
// would keep in the version of one level for all.
#pragma once

namespace deepport {

// Of an index: throws std::out_of_range with a message made as by printf.
[[noreturn, gnu::format(printf, 1, 2)]] void outside(const char* format, ...);

// Of a value: throws std::invalid_argument.
[[noreturn]] void unfit(const char* message);

}  // namespace deepport
