// The same little service, an echo, in each of the ways in which a pool may serve: what each costs (doc/preforkd-preload.7 has
// the table).
#pragma once

#include <filesystem>
#include <fstream>
#include <list>
#include <string>
#include <vector>

#include "bench/django.h"
#include "bench/report.h"
#include "bench/servers.h"
#include "bench/template.h"

namespace preforkd::bench {

inline constexpr int kKindWorkers = 50, kKindRounds = 5;

struct KindOfServer {
  const char* name;
  std::string file;  // what one writes for it
  PoolShape shape;
};

inline std::vector<KindOfServer> kinds_of_servers(const std::string& build) {
  const std::string folder = std::filesystem::canonical(build + "/../../bench/kinds");
  const std::string python = std::string("\"") + kPythonOfDebian + "\", \"";
  auto file = [&](const char* name) { return folder + "/" + name; };
  auto shape = [&](const char* script, const std::string& more) {
    PoolShape made{.min = 1, .max = 64, .min_spare = 0, .max_spare = 64};
    made.serve = python + file(script) + "\"";
    made.more = more;
    return made;
  };
  PoolShape handler{.min = 1, .max = 64, .min_spare = 0, .max_spare = 64};
  PoolShape program = handler;
  program.program = std::string(kPythonOfDebian) + "\", \"" + file("program.py");
  return {{"handler (C++)", build + "/../../handlers/echo.cc", handler},
          {"program", file("program.py"), program},
          {"serve", file("serve.py"), shape("serve.py", "")},
          {"serve, preload", file("serve.py"), shape("serve.py", "preload = true;")},
          {"accept", file("accept.py"), shape("accept.py", "accept = \"fd3\";")},
          {"accept, preload", file("accept.py"),
           shape("accept.py", "accept = \"fd3\"; preload = true;")}};
}

inline int lines_of(const std::string& path) {
  std::ifstream file(path);
  int lines = 0;
  for (std::string line; std::getline(file, line);) lines += !line.empty() && line[0] != '/';
  return lines;
}

// So many clients that stay, each answered.
inline double memory_of_kind(const std::string& build, const PoolShape& shape) {
  Preforkd preforkd(build, shape);
  std::list<UniqueFd> clients;
  for (int i = 0; i < kKindWorkers; i++)
    ask_once(clients.emplace_back(tcp_socket()).get(), preforkd.port());
  std::vector<pid_t> all = preforkd.workers();
  if (shape.more.find("preload") != std::string::npos)
    all.push_back(preforkd.pool().at("template").at("pid").get<pid_t>());
  return proportional_megabytes(all);
}

inline void kinds(const std::string& build, Report& report) {
  for (const KindOfServer& kind : kinds_of_servers(build)) {
    Samples first, memory;
    for (int round = 0; round < kKindRounds; round++) {
      Preforkd preforkd(build, kind.shape);
      first.push_back(median(first_answers(preforkd.port())));
      memory.push_back(memory_of_kind(build, kind.shape));
    }
    const std::string figure = text(
        "echo by %s, %d lines: first answer of a worker that was not "
        "there, ms; memory of %d that serve, PSS, MB",
        kind.name, lines_of(kind.file), kKindWorkers);
    progress(figure + ": " + summary(first, 2) + "; " + summary(memory, 1));
    report.add({figure, summary(first, 2) + "; " + summary(memory, 1), "", "", ""});
  }
}

}  // namespace preforkd::bench
