// preforkd/handler.hpp - the C++ face of preforkd/handler.h, which says what a handler is, what runs in which
// process, and what a handler must not do. Header only; C++17, the standard library and the headers beside it.
//
// A handler is one lambda:
//
//     #include <preforkd/handler.hpp>
//     PREFORKD_SERVE([](preforkd::Stream& stream) {
//       while (auto line = stream.read_line(1024)) stream.write_all(std::string(*line) + "!\n");
//     });
//
// or one class:
//
//     struct Spell : preforkd::Handler {
//       void preload(const preforkd::Host& host) override;  // once, before the fork: load what all share
//       void serve(preforkd::Stream& stream) override;      // one connection
//     };
//     PREFORKD_REGISTER(Spell);
//
// and is built with: c++ -std=c++17 -O2 -shared -fPIC $(pkg-config --cflags preforkd) -o mine.so mine.cc
//
// An exception never leaves a handler: one that leaves `preload`, `start`, `serve` or `stop` is logged with its
// what(), and then is what a return value other than 0 is in C; see each of them below.
#pragma once

#include <preforkd/handler.h>
#include <preforkd/stream.hpp>

#include <cstdio>
#include <exception>
#include <memory>
#include <type_traits>

namespace preforkd {

// To derive from. One object is made, in the supervisor before `preload`; each worker has it by the fork, and no one
// destroys it but a `preload` that failed: what has to be done at the end is done in `stop`. What a function does not
// override does nothing. Register it with PREFORKD_REGISTER.
class Handler {
 public:
  Handler() = default;
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  virtual ~Handler() = default;

  // In the supervisor, once, before any worker exists: what is loaded here is shared by all workers, as long as
  // nobody writes to it. An exception (of the constructor, too): the pool cannot run.
  virtual void preload(const Host&) {}

  // In each worker, before its first connection. An exception: the worker ends, as if it had crashed.
  virtual void start() {}

  // In a worker: one connection. When it returns, preforkd closes the connection and counts it as served. An
  // exception closes this one connection, and it is counted as failed, or as aborted where preforkd/handler.h says so; the
  // worker goes on with the next. The log says "serve 192.0.2.1:4711: what()": an error, unless it is a StreamError, which
  // is the client's doing, and info.
  virtual void serve(Stream& stream) = 0;

  // In a worker that leaves in an orderly way, after its last connection. An exception is logged.
  virtual void stop() {}

 protected:
  // From `preload` on.
  const Host& host() const { return host_; }

 private:
  friend struct HandlerGlue;
  Host host_;
};

// What stands between the C interface and a Handler: the functions that the descriptor points to. Nothing is thrown
// out of them. Not for handlers.
struct HandlerGlue {
  template <class Type>
  static int preload(const preforkd_host* c_host, void** state) noexcept {
    const Host host(c_host);
    return guarded(host, "preload", [&] {
      std::unique_ptr<Handler> handler = std::make_unique<Type>();
      handler->host_ = host;
      handler->preload(host);
      *state = handler.release();
    });
  }
  static int start(void* state) noexcept {
    return guarded(of(state).host_, "start", [&] { of(state).start(); });
  }
  static int serve(void* state, const preforkd_connection* c) noexcept {
    char doing[sizeof "serve " + Address::kLongest] = "serve";
    Stream stream(*c, of(state).host_);
    return guarded(stream.host(), doing, [&] {
      try {
        of(state).serve(stream);
      } catch (...) {
        char peer[Address::kLongest];
        stream.peer().print(peer);
        std::snprintf(doing, sizeof doing, "serve %s", peer);
        throw;
      }
    });
  }
  static void stop(void* state) noexcept {
    guarded(of(state).host_, "stop", [&] { of(state).stop(); });
  }

  // Null where a handler has none: a `start` takes its turn (workers.starting), which costs time.
  template <class Type>
  static constexpr auto start_of() -> int (*)(void*) {
    return std::is_same_v<decltype(&Type::start), void (Handler::*)()> ? nullptr : start;
  }
  template <class Type>
  static constexpr auto stop_of() -> void (*)(void*) {
    return std::is_same_v<decltype(&Type::stop), void (Handler::*)()> ? nullptr : stop;
  }

 private:
  static Handler& of(void* state) { return *static_cast<Handler*>(state); }

  template <class Work>
  static int guarded(const Host& host, const char* doing, Work work) noexcept {
    try {
      work();
      return 0;
    } catch (const StreamError& e) {
      say(host, Level::kInfo, doing, e.what());
    } catch (const std::exception& e) {
      say(host, Level::kError, doing, e.what());
    } catch (...) {
      say(host, Level::kError, doing, "an exception that is no std::exception");
    }
    return 1;
  }
  // Without allocating: it may be that there is no memory.
  static void say(const Host& host, Level level, const char* doing, const char* what) noexcept {
    char line[1024];
    std::snprintf(line, sizeof line, "%s: %s", doing, what);
    host.log(level, line);
  }
};

}  // namespace preforkd

// Makes a class derived from preforkd::Handler the handler of this shared object: one with a default constructor, and
// what it overrides public. Once, in one source file, outside of any namespace.
#define PREFORKD_REGISTER(Type)                                  \
  PREFORKD_HANDLER = {PREFORKD_ABI,                              \
                      sizeof(struct preforkd_handler),           \
                      #Type,                                     \
                      ::preforkd::HandlerGlue::preload<Type>,    \
                      ::preforkd::HandlerGlue::start_of<Type>(), \
                      ::preforkd::HandlerGlue::serve,            \
                      ::preforkd::HandlerGlue::stop_of<Type>()}

// The same for what can be called with a preforkd::Stream&: a lambda without captures, a function. It is Handler::serve.
#define PREFORKD_SERVE(...)                                                                      \
  namespace {                                                                                    \
  struct PreforkdServe : ::preforkd::Handler {                                                   \
    void serve(::preforkd::Stream& preforkd_stream) override { (__VA_ARGS__)(preforkd_stream); } \
  };                                                                                             \
  }                                                                                              \
  PREFORKD_REGISTER(PreforkdServe)
