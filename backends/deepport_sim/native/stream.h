// Streams, events and what is ordered before what: a vector clock per stream, and one for the host.
//
// Operators compute when they are called. Copies that do not block are kept back until something must see them, as late as a device
// may do them; a stream's queue holds them, and the waits between them.
#pragma once

#include <c10/core/Stream.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "common.h"

namespace deepport::sim {

using Key = int64_t;                     // a stream of a device
using Clock = std::map<Key, uint64_t>;  // of each stream, the last step that is known to be done before

struct Event {
  Key stream;
  uint64_t position;  // in the stream's queue
  Clock clock;
  std::chrono::steady_clock::time_point at;
};

Key key(const c10::Stream& stream);
std::string told(Key stream);  // for people

// Each thread has a current device, and a current stream of each.
c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex device);
c10::Stream current_stream(c10::DeviceIndex device);
void set_current_stream(const c10::Stream& stream);
c10::Stream new_stream(c10::DeviceIndex device);

// The stream takes up a new step of work, after all that the host has waited for; the step's number.
uint64_t begin(Key stream);

// Work for later, and doing all of it.
void enqueue(Key stream, std::function<void()> work);
void finish(Key stream);

// Whether that step is known to be done: to who works on a stream, and to the host.
bool ordered(Key stream, uint64_t step, Key by);
bool host_knows(Key stream, uint64_t step);

// Whether there is work which the host has not waited for.
bool busy(Key stream);

Event record(Key stream);
void wait_on_stream(Key stream, const Event& event);

// What one stream knows, another learns: for a copy between devices.
void join(Key stream, Key other);

void wait_on_host(const Event& event);
void wait_on_host(Key stream);
void wait_for_device(c10::DeviceIndex device);

}  // namespace deepport::sim
