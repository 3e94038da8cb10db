// The simulated libascendcl: streams and events. Work happens at once, unless the dispatcher keeps it for later.
#include "simulator.h"

#include <atomic>
#include <chrono>

namespace {
struct Stream {
    int id;
};
struct RecordedEvent {
    double milliseconds;
};
std::atomic<int> streams{1};

aclError asked(Event event, uint64_t a = 0, uint64_t b = 0) { return static_cast<aclError>(ask(event, SUCCESS, a, b)); }
} // namespace

EXPORT aclError aclrtCreateStream(void** stream) {
    *stream = new Stream{streams++};
    return SUCCESS;
}
EXPORT aclError aclrtCreateStreamWithConfig(void** stream, uint32_t, uint32_t) { return aclrtCreateStream(stream); }
EXPORT aclError aclrtDestroyStream(void* stream) {
    auto code = asked(Event::finish, number(stream));
    delete static_cast<Stream*>(stream);
    return code;
}
EXPORT aclError aclrtDestroyStreamForce(void* stream) { return aclrtDestroyStream(stream); }
EXPORT aclError aclrtSynchronizeStream(void* stream) { return asked(Event::finish, number(stream)); }
EXPORT aclError aclrtSynchronizeStreamWithTimeout(void* stream, int32_t) { return asked(Event::finish, number(stream)); }
EXPORT aclError aclrtSynchronizeDevice() { return asked(Event::finish_all); }
EXPORT aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return asked(Event::finish_all); }
EXPORT aclError aclrtStreamQuery(void* stream, int* status) {
    enum { COMPLETE = 0, NOT_READY = 1 };
    *status = ask(Event::pending, 0, number(stream)) ? NOT_READY : COMPLETE;
    return SUCCESS;
}
EXPORT aclError aclrtStreamGetId(void* stream, int32_t* id) {
    *id = stream ? static_cast<Stream*>(stream)->id : 0;
    return SUCCESS;
}
EXPORT aclError aclrtStreamWaitEvent(void* stream, void* event) { return asked(Event::wait, number(stream), number(event)); }
EXPORT aclError aclrtSetStreamFailureMode(void*, uint64_t) { return SUCCESS; }
EXPORT aclError aclrtSetStreamAttribute(void*, int, void*) { return SUCCESS; }
EXPORT aclError aclrtSetStreamOverflowSwitch(void*, uint32_t) { return SUCCESS; }
EXPORT aclError aclrtGetStreamOverflowSwitch(void*, uint32_t* on) {
    *on = 0;
    return SUCCESS;
}

EXPORT aclError aclrtCreateEvent(void** event) {
    *event = new RecordedEvent{0};
    return SUCCESS;
}
EXPORT aclError aclrtCreateEventWithFlag(void** event, uint32_t) { return aclrtCreateEvent(event); }
EXPORT aclError aclrtCreateEventExWithFlag(void** event, uint32_t) { return aclrtCreateEvent(event); }
EXPORT aclError aclrtDestroyEvent(void* event) {
    delete static_cast<RecordedEvent*>(event);
    return SUCCESS;
}
EXPORT aclError aclrtRecordEvent(void* event, void* stream) {
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    static_cast<RecordedEvent*>(event)->milliseconds = std::chrono::duration<double, std::milli>(now).count();
    return asked(Event::record, number(event), number(stream));
}
EXPORT aclError aclrtResetEvent(void*, void*) { return SUCCESS; }
EXPORT aclError aclrtQueryEventStatus(void* event, int* status) {
    enum { NOT_READY = 0, COMPLETE = 1 };
    *status = ask(Event::happened, 1, number(event)) ? COMPLETE : NOT_READY;
    return SUCCESS;
}
EXPORT aclError aclrtQueryEventWaitStatus(void* event, int* status) {
    enum { COMPLETE = 0, NOT_READY = 1 };
    *status = ask(Event::happened, 1, number(event)) ? COMPLETE : NOT_READY;
    return SUCCESS;
}
EXPORT aclError aclrtSynchronizeEvent(void* event) { return asked(Event::finish_event, number(event)); }
EXPORT aclError aclrtEventElapsedTime(float* milliseconds, void* begin, void* end) {
    *milliseconds = static_cast<float>(static_cast<RecordedEvent*>(end)->milliseconds -
                                       static_cast<RecordedEvent*>(begin)->milliseconds);
    return SUCCESS;
}
EXPORT aclError aclrtEventGetTimestamp(void* event, uint64_t* microseconds) {
    *microseconds = static_cast<uint64_t>(static_cast<RecordedEvent*>(event)->milliseconds * 1000);
    return SUCCESS;
}

using HostFunction = void (*)(void*);
EXPORT aclError aclrtLaunchHostFunc(void* stream, HostFunction function, void* argument) {
    if (ask(Event::launch, 1, reinterpret_cast<uintptr_t>(function), number(argument), number(stream)) == 1) function(argument);
    return SUCCESS;
}
EXPORT aclError aclrtLaunchCallback(HostFunction function, void* argument, int, void* stream) {
    return aclrtLaunchHostFunc(stream, function, argument);
}
EXPORT aclError aclrtSubscribeReport(uint64_t, void*) { return SUCCESS; }
EXPORT aclError aclrtUnSubscribeReport(uint64_t, void*) { return SUCCESS; }
EXPORT aclError aclrtProcessReport(int32_t) {
    const aclError THREAD_NOT_SUBSCRIBED = 107013; // callbacks have run by then: there is nothing to report
    return THREAD_NOT_SUBSCRIBED;
}

// No stream is ever captured into a graph.
EXPORT aclError aclmdlRICaptureGetInfo(void*, int* status, void** graph) {
    if (status) *status = 0;
    if (graph) *graph = nullptr;
    return SUCCESS;
}
EXPORT aclError aclmdlRICaptureThreadExchangeMode(int*) { return SUCCESS; }
