// Notices host code that touches device memory (rule host-access), or pinned memory that a copy is still to arrive in (rule staging).
#pragma once

namespace deepport::sim {

// Once a process, after faulthandler, which then says which line of Python it was.
void set_trap();

}  // namespace deepport::sim
