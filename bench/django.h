// A Django application (bench/books) as a program of preforkd with `preload`, started for each worker, under gunicorn --preload,
// and by bare os.fork(): memory of 50 workers, and how long 200 clients at once wait.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <filesystem>
#include <functional>
#include <list>
#include <numeric>
#include <string>
#include <vector>

#include "bench/report.h"
#include "bench/servers.h"

namespace preforkd::bench {

inline constexpr int kBookWorkers = 50, kBookRequests = 20, kBookRounds = 3;
inline constexpr int kBookClients = 200, kBookIdle = 5, kBookBursts = 5;
inline constexpr const char* kPythonOfDebian = "/usr/bin/python3";  // who has Django

class Books {
 public:
  explicit Books(const std::string& build)
      : build_(build), scripts_(std::filesystem::canonical(build + "/../../bench/books")) {
    Child({"/usr/bin/env", variable(), kPythonOfDebian, "-c",
           "import sys; sys.path.insert(0, '" + scripts_ + "'); import site_of_books"})
        .finish(60);
  }
  std::string variable() const { return "BOOKS_DATABASE=" + database_; }
  std::string script() const { return scripts_ + "/serve.py"; }
  const std::string& scripts() const { return scripts_; }

  Preforkd pool(int min, int max, bool preload) const {
    return Preforkd(build_,
                    {.min = min,
                     .max = max,
                     .min_spare = 0,
                     .max_spare = max,
                     .serve = "\"" + std::string(kPythonOfDebian) + "\", \"" + script() + "\"",
                     .more = "environment = { BOOKS_DATABASE = \"" + database_ + "\"; }; " +
                             (preload ? "preload = true;" : "")});
  }

 private:
  const std::string build_, scripts_;
  const TemporaryFolder folder_;
  const std::string database_ = folder_.file("books.sqlite3");
};

// Under gunicorn: its own workers, of the kind that serves one connection at a time.
class Gunicorn {
 public:
  explicit Gunicorn(const Books& books)
      : port_(free_port()),
        log_{folder_.file("log")},
        child_(
            {"/usr/bin/env", books.variable(), "/usr/bin/gunicorn", "--preload", "--workers",
             std::to_string(kBookWorkers), "--bind", "127.0.0.1:" + port_, "--chdir",
             books.scripts(), "--backlog", "2048", "--timeout", "120", "site_of_books:application"},
            log_.path) {
    wait_until("gunicorn has its workers", 60, [&] {
      if (child_.has_ended()) throw std::runtime_error("gunicorn ended at its start");
      return children_of(child_.pid()).size() == kBookWorkers;
    });
  }
  const std::string& port() const { return port_; }
  std::vector<pid_t> processes() const { return tree_of(child_.pid()); }

 private:
  std::string port_;
  TemporaryFolder folder_;
  ShownOnFailure log_;
  Child child_;
};

// So many clients at once: each is answered when all are connected, so each by another worker. In seconds, when the last one
// had its first bytes; they stay until then.
inline double ask_for_books(const std::string& port, int clients) {
  const std::string question = "GET /?year=1990 HTTP/1.0\r\n\r\n";
  std::list<UniqueFd> sockets;
  std::vector<pollfd> waiting;
  const Nanoseconds began = monotonic_now();
  for (int i = 0; i < clients; i++) {
    const int fd = sockets.emplace_back(tcp_socket()).get();
    if (connect_to_loopback(fd, static_cast<uint16_t>(std::stoi(port))) != 0)
      throw SysError("connect to the books", errno);
    waiting.push_back({fd, POLLIN, 0});
  }
  for (const pollfd& each : waiting)
    if (send(each.fd, question.data(), question.size(), MSG_NOSIGNAL) < 0)
      throw SysError("ask for books", errno);
  const Nanoseconds until = began + 120 * kSecond;
  for (int left = clients; left > 0;) {
    if (poll(waiting.data(), waiting.size(), 1000) < 0) throw SysError("poll", errno);
    if (monotonic_now() > until) throw std::runtime_error("no books within 120 s");
    for (pollfd& each : waiting) {
      if (each.fd < 0 || each.revents == 0) continue;
      char answer[16];
      const ssize_t got = recv(each.fd, answer, sizeof answer, 0);
      if (got < 12 || std::string(answer, 12).find(" 200") == std::string::npos)
        throw std::runtime_error("the books have answered something else");
      each.fd = -1;
      --left;
    }
  }
  return to_seconds(monotonic_now() - began);
}

inline double proportional_megabytes(const std::vector<pid_t>& processes) {
  uint64_t sum = 0;
  for (pid_t pid : processes) sum += sum_of_lines(proc_path(pid, "smaps_rollup"), {"Pss"});
  return static_cast<double>(sum) / 1024;
}

inline double memory_of_books(const std::string& port,
                              const std::function<std::vector<pid_t>()>& all) {
  for (int i = 0; i < kBookRequests; i++) ask_for_books(port, kBookWorkers);
  return proportional_megabytes(all());
}

inline double memory_in_pool(const Books& books, bool preload) {
  Preforkd preforkd = books.pool(kBookWorkers, kBookWorkers, preload);
  return memory_of_books(preforkd.port(), [&] {
    std::vector<pid_t> all = preforkd.workers();
    if (preload) all.push_back(preforkd.pool().at("template").at("pid").get<pid_t>());
    return all;
  });
}

inline void django_memory(const Books& books, Report& report) {
  Samples forked, started, gunicorn;
  for (int round = 0; round < kBookRounds; round++) {
    forked.push_back(memory_in_pool(books, true));
    started.push_back(memory_in_pool(books, false));
    Gunicorn other(books);
    gunicorn.push_back(memory_of_books(other.port(), [&] { return other.processes(); }));
    progress(text("Django, 50 workers: forked %.0f MB, started %.0f MB, gunicorn %.0f MB",
                  forked.back(), started.back(), gunicorn.back()));
  }
  const double by_started = median(ratios(forked, started)),
               by_gunicorn = median(ratios(forked, gunicorn));
  const std::string figure =
      text("Django: memory of %d workers and their template after %d requests each, PSS, MB",
           kBookWorkers, kBookRequests);
  report.add({figure, summary(forked, 0), "started: " + summary(started, 0),
              text("%.3f", by_started), "≤ 0.125", reached_if(by_started <= 0.125)});
  report.add({figure, summary(forked, 0), "gunicorn --preload: " + summary(gunicorn, 0),
              text("%.3f", by_gunicorn), "≤ 1.0", reached_if(by_gunicorn <= 1)});
}

inline void django_burst(const Books& books, Report& report) {
  Samples ours, bare;
  for (int round = 0; round < kBookBursts; round++) {
    {
      Preforkd preforkd = books.pool(kBookIdle, kBookClients + 2 * kBookIdle, true);
      ours.push_back(ask_for_books(preforkd.port(), kBookClients));
    }
    Bare forks(std::vector<std::string>{"/usr/bin/env", books.variable(), kPythonOfDebian,
                                        books.script(), "fork"});
    bare.push_back(ask_for_books(forks.port(), kBookClients));
    progress(text("Django, burst: preforkd %.2f s, bare forks %.2f s", ours.back(), bare.back()));
  }
  const double ratio = median(ratios(ours, bare));
  report.add({text("Django: %d clients at once that stay, from %d idle: last first answer, s",
                   kBookClients, kBookIdle),
              summary(ours, 2), "an os.fork() for each: " + summary(bare, 2), text("%.2f", ratio),
              "≤ 1.3", reached_if(ratio <= 1.3)});
}

inline void django(const std::string& build, Report& report) {
  const Books books(build);
  django_memory(books, report);
  django_burst(books, report);
}

}  // namespace preforkd::bench
