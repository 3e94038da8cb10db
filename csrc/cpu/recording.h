// Calls of kernels, kept to be made again: with the same memory, and what it holds by then.
#pragma once

#include <chrono>
#include <functional>
#include <utility>
#include <vector>

namespace deepport {

// While a recording is under way in a thread, every kernel that the thread calls is computed and noted. `replay` makes the calls
// again, in order, at the cost of one indirect call each. A noted call owns what keeps its memory alive.
class Recording {
 public:
  static Recording*& current() {
    static thread_local Recording* recording = nullptr;
    return recording;
  }

  void note(std::function<void()> call) {
    calls_.push_back(std::move(call));
    seconds_.push_back(0);
  }

  void replay() const {
    for (const std::function<void()>& call : calls_) call();
  }

  // The same, adding to each call's seconds.
  void replay_timed() {
    using clock = std::chrono::steady_clock;
    clock::time_point begin = clock::now();
    for (size_t i = 0; i < calls_.size(); ++i) {
      calls_[i]();
      const clock::time_point end = clock::now();
      seconds_[i] += std::chrono::duration<double>(end - begin).count();
      begin = end;
    }
  }

  // Of each call since they were last taken.
  std::vector<double> take_seconds() { return std::exchange(seconds_, std::vector<double>(calls_.size())); }

  size_t size() const { return calls_.size(); }

 private:
  std::vector<std::function<void()>> calls_;
  std::vector<double> seconds_;
};

}  // namespace deepport
