#include "stream.h"

#include <array>
#include <deque>

#include "staging.h"

namespace deepport::sim {
namespace {

constexpr int kPool = 32;  // streams of a device, given out in turn, as torch does for CUDA

struct State {
  std::deque<std::function<void()>> queue;
  uint64_t queued = 0, done = 0, step = 0;
  Clock clock;
};

struct Streams {
  std::map<Key, State> states;
  Clock host;
  std::array<int, kDevices> given{};
};

Streams& streams() {
  static auto* const one = new Streams();
  return *one;
}

State& state(Key stream) { return streams().states[stream]; }

thread_local c10::DeviceIndex device_now = 0;
thread_local std::array<c10::StreamId, kDevices> stream_now{};

void merge(Clock& into, const Clock& from) {
  for (const auto& [stream, step] : from) {
    uint64_t& known = into[stream];
    known = std::max(known, step);
  }
}

uint64_t at(const Clock& clock, Key stream) {
  const auto found = clock.find(stream);
  return found == clock.end() ? 0 : found->second;
}

void run(Key stream, uint64_t until) {
  State& s = state(stream);
  while (s.done < until && !s.queue.empty()) {
    const auto work = std::move(s.queue.front());
    s.queue.pop_front();
    ++s.done;
    work();
  }
}

}  // namespace

std::recursive_mutex& mutex() {
  static auto* const one = new std::recursive_mutex();
  return *one;
}

Key key(const c10::Stream& stream) { return Key(stream.device_index()) << 32 | stream.id(); }
std::string told(Key stream) { return c10::str("stream ", stream & 0xffffffff, " of device ", stream >> 32); }

c10::DeviceIndex current_device() { return device_now; }

void set_current_device(c10::DeviceIndex device) {
  TORCH_CHECK(device < kDevices, "deepport_sim: there is no device ", int(device), "; the last is ", kDevices - 1);
  if (device >= 0) device_now = device;
}

c10::Stream current_stream(c10::DeviceIndex device) {
  const c10::DeviceIndex index = device < 0 ? device_now : device;
  return c10::Stream(c10::Stream::UNSAFE, {kType, index}, stream_now[index]);
}

void set_current_stream(const c10::Stream& stream) { stream_now[stream.device_index()] = stream.id(); }

c10::Stream new_stream(c10::DeviceIndex device) {
  const Lock lock(mutex());
  const c10::DeviceIndex index = device < 0 ? device_now : device;
  return c10::Stream(c10::Stream::UNSAFE, {kType, index}, 1 + streams().given[index]++ % kPool);
}

uint64_t begin(Key stream) {
  State& s = state(stream);
  merge(s.clock, streams().host);
  return s.clock[stream] = ++s.step;
}

void enqueue(Key stream, std::function<void()> work) {
  State& s = state(stream);
  s.queue.push_back(std::move(work));
  ++s.queued;
}

void finish(Key stream) { run(stream, state(stream).queued); }

bool ordered(Key stream, uint64_t step, Key by) {
  return stream == by || at(state(by).clock, stream) >= step || host_knows(stream, step);
}

bool host_knows(Key stream, uint64_t step) { return at(streams().host, stream) >= step; }

bool busy(Key stream) { return !host_knows(stream, state(stream).step); }

Event record(Key stream) {
  const State& s = state(stream);
  return {stream, s.queued, s.clock, std::chrono::steady_clock::now()};
}

void wait_on_stream(Key stream, const Event& event) {
  merge(state(stream).clock, event.clock);
  if (state(event.stream).done < event.position)
    enqueue(stream, [stream = event.stream, until = event.position] { run(stream, until); });
}

void join(Key stream, Key other) {
  finish(other);
  merge(state(stream).clock, state(other).clock);
}

void wait_on_host(const Event& event) {
  run(event.stream, event.position);
  merge(streams().host, event.clock);
  check_staging();
}

void wait_on_host(Key stream) { wait_on_host(record(stream)); }

void wait_for_device(c10::DeviceIndex device) {
  for (auto& [stream, unused] : streams().states)
    if (stream >> 32 == device) wait_on_host(stream);
}

}  // namespace deepport::sim
