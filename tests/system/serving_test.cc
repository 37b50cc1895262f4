// Programs that accept by themselves: the bindings for Python and Perl, and the examples that use them.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <set>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "tests/system/conditions.h"
#include "tests/system/load.h"
#include "tests/system/preloaded.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

const char* const kOneWorker = "min = 1; max = 1; min_spare = 0;";

// What the programs are, where pools that run as other users can read it.
const TestFolder& scripts() {
  static const TestFolder folder;
  return folder;
}
std::string source(const std::string& name) {
  const auto root = std::filesystem::path(__FILE__).parent_path() / "../..";
  const std::string text = file_text(root / name);
  if (text.empty()) throw Failure("read " + name);
  return text;
}
// examples/jsonrpc/app.py as app.py, and so on; its path.
std::string example(const std::string& name) {
  return scripts().write(std::filesystem::path(name).filename(), source("examples/" + name));
}
PoolText serving(const std::string& name, const std::string& interpreter, const std::string& script,
                 const std::string& settings = "", const std::string& workers = kOneWorker) {
  return {.name = name,
          .serves = "serve = [ \"" + interpreter + "\", \"" + script + "\" ]; settings = { " +
                    settings + " };",
          .workers = workers,
          .more = preload_if_wanted()};
}

// A library with the sanitizers in it is no use to an interpreter without.
bool cannot_run() {
  if (are_sanitized()) skip("no interpreter with sanitizers");
  return are_sanitized();
}

std::string ask(Client& client, const std::string& line) {
  client.send(line + "\n");
  return client.read_line();
}

void expect_logged(Server& server, const std::string& text) {
  server.wait_until("the log has: " + text, kPatience,
                    [&] { return server.log().find(text) != std::string::npos; });
}

// --- both languages

struct Language {
  std::string interpreter, file, text, reason, reason_of_broken_end;
};

const Language& python() {
  static const Language language{"python3", "diary.py", R"(import os
import preforkd

def answer(connection):
    for line in connection.makefile("rb"):
        order, _, rest = line.decode().rstrip("\n").partition(" ")
        said = "done"
        if order == "die":
            raise ValueError(rest)
        elif order == "note":
            connection.note(rest)
        elif order == "extend":
            connection.extend(float(rest))
        elif order == "fail":
            connection.fail()
        elif order == "recycle":
            preforkd.recycle()
        elif order == "log":
            preforkd.log(rest, 4)
        elif order == "close":
            os.close(connection.socket.fileno())
            return
        elif order == "break":
            connection.makefile("w").detach()
        elif order == "pid":
            said = str(os.getpid())
        elif order == "number":
            said = str(connection.number)
        elif order == "pool":
            said = preforkd.pool
        elif order == "setting":
            said = preforkd.settings["greeting"]
        elif order in ("peer", "local"):
            address = getattr(connection, order)
            said = address if isinstance(address, str) else "%s %d" % address
        connection.sendall(said.encode() + b"\n")

preforkd.serve(answer)
)",
                                 "ValueError: dear me", "underlying buffer has been detached"};
  return language;
}

const Language& perl() {
  static const Language language{"perl", "diary.pl", R"(use strict;
use warnings;
use POSIX ();
use Preforkd;

{
    package Broken;
    our @ISA = 'IO::Socket::INET';
    sub flush { die "dear me at the end\n" }
}

my %orders = (
    die     => sub { die "$_[1]\n" },
    note    => sub { $_[0]->note($_[1]) },
    extend  => sub { $_[0]->extend($_[1]) },
    fail    => sub { $_[0]->fail },
    recycle => sub { Preforkd->recycle },
    log     => sub { Preforkd->log($_[1], 4) },
    break   => sub { bless $_[0]->handle, 'Broken' },
);
my %questions = (
    pid     => sub { $$ },
    number  => sub { $_[0]->number },
    pool    => sub { Preforkd->pool },
    setting => sub { Preforkd->settings->{greeting} },
    peer    => sub { join ' ', $_[0]->peer },
    local   => sub { join ' ', $_[0]->local },
);

Preforkd->serve(sub {
    my ($connection) = @_;
    my $handle = $connection->handle;
    while (my $line = <$handle>) {
        chomp $line;
        my ($order, $rest) = split / /, $line, 2;
        if ($order eq 'close') {
            POSIX::close(fileno $handle);
            return;
        }
        my $said = $questions{$order} ? $questions{$order}->($connection) : 'done';
        $orders{$order}->($connection, $rest) if $orders{$order};
        print $handle "$said\n";
    }
});
)",
                                 "dear me", "dear me at the end"};
  return language;
}

PoolText diary(const Language& language, const std::string& workers = kOneWorker) {
  return serving("echo", language.interpreter, scripts().write(language.file, language.text),
                 "greeting = \"hello\";", workers);
}

std::string spaced(const std::string& address) {  // "127.0.0.1:7" as "127.0.0.1 7"
  const size_t colon = address.rfind(':');
  return address.substr(0, colon) + " " + address.substr(colon + 1);
}

void surroundings(const Language& language) {
  Server server({diary(language)});
  Client client(server.address());
  expect_equal("peer", ask(client, "peer"), spaced(client.own_address()));
  expect_equal("local", ask(client, "local"), spaced(server.address()));
  expect_equal("number", ask(client, "number"), "1");
  expect_equal("pool", ask(client, "pool"), "echo");
  expect_equal("a setting", ask(client, "setting"), "hello");
  ask(client, "note GET /x");
  expect_contains("the note", server.ctl({"workers", "echo"}).out, "GET /x");
  ask(client, "log dear diary");
  expect_logged(server, "dear diary");
  client.half_close();
  expect_equal("the end", client.read_until_eof(), "");
  // It was counted before it was closed.
  expect_equal("served", server.pool()["connections"]["served"], 1);
  Client second(server.address());
  expect_equal("the second", ask(second, "number"), "2");
}

void on_a_unix_socket(const Language& language) {
  PoolText pool = diary(language);
  pool.listen = "\"unix:@DIR@/socket\"";
  Server server({pool});
  Client client(server.address());
  expect_equal("peer", ask(client, "peer"), "");
  expect_equal("local", ask(client, "local"), server.folder().file("socket"));
}

// A file that was made of the connection is written out, and does not keep it open.
void buffered_in_python() {
  if (cannot_run()) return;
  const std::string script = scripts().write("buffered.py", R"(import preforkd
kept = []
for connection in preforkd.connections():
    kept.append(connection.makefile("wb"))
    kept[-1].write(b"written")
)");
  Server server({serving("echo", "python3", script)});
  for (int served = 1; served <= 3; ++served) {
    Client client(server.address());
    expect_equal("all of it", client.read_until_eof(), "written");
    expect_equal("counted", server.pool()["connections"]["served"], served);
  }
}

void throws(const Language& language) {
  Server server({diary(language)});
  std::string pid;
  for (int failed = 1; failed <= 3; ++failed) {
    Client client(server.address());
    const std::string serving = ask(client, "pid");
    if (pid.empty()) pid = serving;
    expect_equal("the same worker", serving, pid);
    const std::string told = "serve " + client.own_address() + ": " + language.reason;
    client.send("die dear me\n");
    expect(client.is_ended(), "the connection ends");
    expect_equal("failed", server.pool()["connections"]["failed"], failed);
    expect_logged(server, told);
  }
  {
    Client client(server.address());
    expect_equal("it counts as failed", ask(client, "fail"), "done");
    client.half_close();
    client.read_until_eof();
  }
  Client next(server.address());
  expect_equal("it serves on", ask(next, "pid"), pid);
  next.half_close();
  next.read_until_eof();
  const Json pool = server.pool();
  expect_equal("failed at last", pool["connections"]["failed"], 4);
  expect_equal("served", pool["connections"]["served"], 1);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
}

// A descriptor that the program has closed by its number is not the connection's any more.
void closes_it_itself(const Language& language) {
  Server server({diary(language)});
  std::string pid;
  for (int served = 0; served < 3; ++served) {
    Client client(server.address());
    const std::string serving = ask(client, "pid");
    if (pid.empty()) pid = serving;
    expect_equal("the same worker", serving, pid);
    client.send("close\n");
    expect(client.is_ended(), "the connection ends");
    server.wait_for("/connections/served", served + 1);
  }
  Client next(server.address());
  expect_equal("it serves on", ask(next, "pid"), pid);
  const Json pool = server.pool();
  expect_equal("failed", pool["connections"]["failed"], 0);
  expect_equal("crashed", pool["lifetime"]["crashed"], 0);
}

// An exception at the end of a connection ends that connection and no other.
void breaks_at_the_end(const Language& language) {
  Server server({diary(language)});
  std::string told, pid;
  {
    Client client(server.address());
    pid = ask(client, "pid");
    ask(client, "break");
    told = "serve " + client.own_address() + ": " + language.reason_of_broken_end;
    client.half_close();
    expect_equal("the end", client.read_until_eof(), "");
  }
  expect_equal("failed", server.pool()["connections"]["failed"], 1);
  expect_logged(server, told);
  Client next(server.address());
  expect_equal("it serves on", ask(next, "pid"), pid);
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
}

void extends(const Language& language) {
  PoolText pool = diary(language, "min = 2; max = 2; min_spare = 0;");
  pool.timeouts = "connection = 1.0;";
  Server server({pool});
  Client extended(server.address());
  expect_equal("more time", ask(extended, "extend 600"), "done");
  Client other(server.address());
  ask(other, "pid");
  expect(other.is_ended(), "the other one is ended");
  expect(!ask(extended, "pid").empty(), "the extended one goes on");
}

void recycles(const Language& language) {
  Server server({diary(language, "min = 1; max = 2; min_spare = 0;")});
  Client client(server.address());
  const std::string pid = ask(client, "pid");
  ask(client, "recycle");
  expect_equal("it goes on", ask(client, "pid"), pid);
  client.half_close();
  client.read_until_eof();
  server.wait_for("/lifetime/recycled", 1);
  expect_equal("crashed", server.pool()["lifetime"]["crashed"], 0);
  Client next(server.address());
  expect(ask(next, "pid") != pid, "another one serves");
}

void speak(void (*about)(const Language&)) {
  if (cannot_run()) return;
  about(python());
  about(perl());
}

// --- preload

// Each worker has numbers of its own, and was told that it was forked; what the program has made it has made once.
void shared_and_own() {
  if (cannot_run()) return;
  const std::string counts = "min = 3; max = 3; min_spare = 0; max_spare = 0;";
  const std::string in_python = scripts().write("own.py", R"(import os, random, threading
import preforkd
random.random()
made, told, hooked = os.getpid(), [], []
os.register_at_fork(after_in_child=lambda: told.append(os.getpid()))
@preforkd.after_fork
def connect():
    hooked.append(os.getpid())
def answer(connection):
    for line in connection.makefile("rb"):
        mine = os.getpid()
        alone = threading.current_thread() is threading.main_thread()
        same = told == [mine] and hooked == [mine] and made != mine and alone
        connection.sendall(b"%d %d %s\n" % (made, mine, repr((same, random.random())).encode()))
preforkd.serve(answer)
)");
  const std::string in_perl = scripts().write("own.pl", R"(use strict;
use warnings;
use Preforkd;
rand;
my $made = $$;
my @hooked;
Preforkd->after_fork(sub { push @hooked, $$ });
Preforkd->serve(sub {
    my $handle = $_[0]->handle;
    while (<$handle>) {
        my $same = "@hooked" eq "$$" && $made != $$ ? 'True' : 'False';
        print $handle "$made $$ ($same, ", rand, ")\n";
    }
});
)");
  for (const auto& [interpreter, script] : {std::pair{"python3", in_python}, {"perl", in_perl}}) {
    Server server({serving("echo", interpreter, script, "", counts)});
    std::vector<Client> clients;
    std::set<std::string> made, workers, numbers;
    for (int i = 0; i < 3; ++i) clients.emplace_back(server.address());
    for (Client& client : clients) {
      std::istringstream answer(ask(client, "?"));
      std::string program, worker, hooks, number;
      answer >> program >> worker >> hooks >> number;
      made.insert(program);
      workers.insert(worker);
      numbers.insert(number);
      expect_equal(std::string(interpreter) + ": told that it was forked", hooks, "(True,");
    }
    expect_equal(std::string(interpreter) + ": programs", made.size(), 1u);
    expect_equal(std::string(interpreter) + ": workers", workers.size(), 3u);
    expect_equal(std::string(interpreter) + ": random numbers", numbers.size(), 3u);
  }
}

// A program can be imported by its tests, but has no connections there.
void outside_of_preforkd() {
  if (cannot_run()) return;
  const std::string library = std::filesystem::absolute(built("libpreforkd.so.1"));
  const std::string folder = std::filesystem::absolute(built(""));
  const std::string kinds[][4] = {
      {"PYTHONPATH=" + folder + "python", "python3", "-c",
       "import preforkd\nprint(preforkd.pool, preforkd.settings)\n"
       "try: preforkd.connections().__next__()\nexcept PermissionError as e: print(e.strerror)"},
      {"PERL5LIB=" + folder + "perl", "perl", "-MPreforkd",
       "-eprint Preforkd->pool // 'None', ' {', %{Preforkd->settings}, \"}\\n\";"
       "eval { Preforkd->next }; print $@"},
  };
  for (const auto& kind : kinds)
    for (const std::string& its : {library, std::string("/nowhere.so")}) {
      const Outcome said =
          run({"env", "PREFORKD_LIBRARY=" + its, kind[0], kind[1], kind[2], kind[3]});
      expect_equal(kind[1] + ": " + said.err, said.code, 0);
      expect_contains(kind[1], said.out, "None {}\n");
      expect_contains(kind[1], said.out,
                      its == library ? "this process was not started by preforkd"
                                     : "preforkd has not started this process (");
    }
}

// --- README.md

// What stands there, indented, from one line to another.
std::string from_readme(const std::string& first, const std::string& last) {
  const std::string text = source("README.md");
  const size_t from = text.find("\n    " + first + "\n"),
               to = text.find("\n    " + last + "\n", from);
  if (from == text.npos || to == text.npos) throw Failure("README.md has no " + first);
  std::istringstream lines(text.substr(from + 1, to - from) + "    " + last + "\n");
  std::string program;
  for (std::string line; std::getline(lines, line);)
    program += (line.empty() ? "" : line.substr(4)) + "\n";
  return program;
}

void readme() {
  if (cannot_run()) return;
  const std::pair<const char*, std::string> programs[] = {
      {"python3",
       scripts().write("readme.py", from_readme("import preforkd", "preforkd.serve(answer)"))},
      {"perl", scripts().write("readme.pl", from_readme("use Preforkd;", "});"))}};
  for (const auto& [interpreter, script] : programs) {
    Server server({serving("echo", interpreter, script)});
    Client client(server.address());
    expect_equal(interpreter, ask(client, "hello"), "you said: hello");
    expect_contains("its note", server.ctl({"workers", "echo"}).out, "hello");
    client.half_close();
    expect_equal("the end", client.read_until_eof(), "");
  }
}

// --- examples/jsonrpc

std::string error_of(int code, const std::string& message, const std::string& id = "null") {
  return R"({"jsonrpc": "2.0", "error": {"code": )" + std::to_string(code) + R"(, "message": ")" +
         message + R"("}, "id": )" + id + "}";
}
std::string result_of(const std::string& result, const std::string& id) {
  return R"({"jsonrpc": "2.0", "result": )" + result + R"(, "id": )" + id + "}";
}
std::string asking(const std::string& method, const std::string& params,
                   const std::string& id = "") {
  return R"({"jsonrpc": "2.0", "method": ")" + method + R"(", "params": )" + params +
         (id.empty() ? "" : R"(, "id": )" + id) + "}";
}

// Reasons are for people, and not compared.
Json without_reasons(Json answer) {
  for (Json& one : answer.is_array() ? answer : answer = Json::array({answer}))
    if (one.contains("error")) one["error"].erase("data");
  return answer;
}
void expect_answer(Client& client, const std::string& sent, const std::string& expected) {
  const std::string answer = ask(client, sent);
  const Json found = Json::parse(answer, nullptr, false);
  const Json wanted = Json::parse(expected);
  expect_equal(sent.substr(0, 100) + ": a batch", found.is_array(), wanted.is_array());
  expect_equal(sent.substr(0, 100), without_reasons(found), without_reasons(wanted));
}

// The example, with a method that has a mistake, and one that does not come back.
std::string jsonrpc_with_broken_methods() {
  example("jsonrpc/app.py");
  return scripts().write("broken.py", R"(import signal
import app
app.METHODS["broken"] = lambda: 1 / 0
app.METHODS["endless"] = lambda: [signal.pause() for _ in range(1000)]
app.main()
)");
}

void jsonrpc() {
  if (cannot_run()) return;
  Server server({serving("jsonrpc", "python3", jsonrpc_with_broken_methods(), "longest = 2000;")});
  Client client(server.address("jsonrpc"));
  const std::string mean = asking("mean", "[[1, 2, 6]]", "1");
  const std::pair<std::string, std::string> cases[] = {
      {mean, result_of("3", "1")},
      {asking("mean", R"({"numbers": [1, 2]})", R"("a b")"), result_of("1.5", R"("a b")")},
      {asking("median", "[[3, 1, 2]]", "null"), result_of("2", "null")},
      {asking("weekday", R"(["2024-02-29"])", "2.5"), result_of(R"("Thursday")", "2.5")},
      {asking("days_between", R"(["2024-01-01", "2025-01-01"])", "2"), result_of("366", "2")},
      {asking("add_to_date", R"({"date": "2024-01-31", "months": 1})", "3"),
       result_of(R"("2024-02-29")", "3")},
      {asking("add_to_date", R"({"date": "9999-12-31", "days": 1})", "4"),
       error_of(-32602, "Invalid params", "4")},
      {asking("diff", R"(["a\nb", "a\nc"])", "5"),
       result_of(R"(["--- old", "+++ new", "@@ -1,2 +1,2 @@", " a", "-b", "+c"])", "5")},
      {asking("mean", "[[1, \"x\"]]", "6"), error_of(-32602, "Invalid params", "6")},
      {asking("mean", "[[true]]", "6"), error_of(-32602, "Invalid params", "6")},
      {asking("mean", "[[]]", "6"), error_of(-32602, "Invalid params", "6")},
      {asking("mean", "[]", "7"), error_of(-32602, "Invalid params", "7")},
      {asking("mean", R"({"wrong": []})", "8"), error_of(-32602, "Invalid params", "8")},
      {asking("median", "[[1.7e308, 1.7e308]]", "9"), error_of(-32602, "Invalid params", "9")},
      {asking("nothing", "[]", "10"), error_of(-32601, "Method not found", "10")},
      {asking("broken", "[]", "11"), error_of(-32603, "Internal error", "11")},
      {"{bad", error_of(-32700, "Parse error")},
      {"\xff", error_of(-32700, "Parse error")},
      {"[NaN]", error_of(-32700, "Parse error")},
      {std::string(1999, '['), error_of(-32700, "Parse error")},
      {std::string(2001, ' '), error_of(-32600, "Invalid Request")},
      {std::string(1'000'000, 'x'), error_of(-32600, "Invalid Request")},
      {"1", error_of(-32600, "Invalid Request")},
      {R"({"method": "mean", "id": 1})", error_of(-32600, "Invalid Request", "1")},
      {R"({"jsonrpc": "2.0", "method": 1, "params": "bar"})", error_of(-32600, "Invalid Request")},
      {asking("mean", "[[1]]", "[1]"), error_of(-32600, "Invalid Request")},
      {"[]", error_of(-32600, "Invalid Request")},
      {"[1]", "[" + error_of(-32600, "Invalid Request") + "]"},
      {"[" + mean + ", " + asking("mean", "[[1]]") + ", 7, " + asking("nothing", "[]", "2") + "]",
       "[" + result_of("3", "1") + ", " + error_of(-32600, "Invalid Request") + ", " +
           error_of(-32601, "Method not found", "2") + "]"},
      // Notifications: what is answered is the request behind them.
      {asking("mean", "[[1]]") + "\n" + mean, result_of("3", "1")},
      {asking("nothing", "[]") + "\n" + mean, result_of("3", "1")},
      {"[" + asking("broken", "[]") + "]\n\n" + mean, result_of("3", "1")},
      {mean + "\r", result_of("3", "1")},
  };
  for (const auto& [sent, expected] : cases) expect_answer(client, sent, expected);
  expect_contains("the note", server.ctl({"workers", "jsonrpc"}).out, "mean");
  server.wait_for_log("ZeroDivisionError");
  client.send(mean);
  client.half_close();
  expect_equal("a last line without end", client.read_until_eof(), result_of("3", "1") + "\n");
  expect_exact_figures(server, "jsonrpc", 1);
  expect_equal("failed", server.pool("jsonrpc")["connections"]["failed"], 0);
}

void jsonrpc_takes_too_long() {
  if (cannot_run()) return;
  Server server({serving("jsonrpc", "python3", jsonrpc_with_broken_methods(),
                         "patience = 0.5; seconds = 0.5;")});
  Client client(server.address("jsonrpc"));
  expect_answer(client, asking("endless", "[]", "1"), error_of(-32000, "Takes too long", "1"));
  expect_answer(client, asking("mean", "[[1]]", "2"), result_of("1", "2"));
  client.send("{");
  expect(client.is_ended(), "half a line, and no more for too long");
}

// --- examples/finger

class Homes {
 public:
  explicit Homes(const std::string& name) : home_(scripts().file(name)) {
    std::filesystem::create_directories(home_);
    std::filesystem::permissions(home_, std::filesystem::perms(0755));
  }
  const std::string& path() const { return home_; }
  void write(const std::string& file, const std::string& text) {
    scripts().write(std::filesystem::path(home_).filename() / file, text);
  }

 private:
  std::string home_;
};

std::string fingered(Server& server, const std::string& query) {
  Client client(server.address("finger"));
  client.send(query);
  return client.read_until_eof();
}

void finger() {
  if (cannot_run()) return;
  Homes ann("ann"), bob("bob");
  ann.write(".plan",
            "To \x1b[31mpaint\xc2\x9b it r\xc3\xa9"
            "d\x07\r\n\tsoon\n");
  ann.write(".project", "a wall\nand more\n");
  std::filesystem::remove(bob.path() + "/.plan");  // of the test before
  std::filesystem::create_symlink(scripts().write("secret", "a secret\n"), bob.path() + "/.plan");
  const std::string own = std::to_string(getuid());
  const std::string passwd =
      scripts().write("passwd",
                      "root:x:0:0:root:/nonexistent:/bin/bash\n"
                      "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
                      "service:x:2:2:Service:/nonexistent:/bin/sh\n"
                      "ann:x:" +
                          own + ":0:Ann Example,1st floor,,:" + ann.path() +
                          ":/bin/sh\n"
                          "bob:x:1001:1001:Bob Example:" +
                          bob.path() +
                          ":/usr/sbin/nologin\n"
                          "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
                          "half a line\n");
  Server server(
      {serving("finger", "perl", example("finger/finger.pl"), "passwd = \"" + passwd + "\";")});
  const std::string list =
      "Login            Name\r\n"
      "root             root\r\n"
      "service          Service\r\n"
      "ann              Ann Example\r\n"
      "bob              Bob Example\r\n";
  const std::string about_ann =
      "Login: ann                       Name: Ann Example\r\nDirectory: " + ann.path();
  expect_equal("all", fingered(server, "\r\n"), list);
  expect_equal("all, with /W", fingered(server, "/W\r\n"), list);
  const std::string found = fingered(server, "ann\r\n");
  expect_contains("ann", found, about_ann);
  expect_contains("her shell", found, "Shell: /bin/sh\r\n");
  expect_contains("her project", found, "Project: a wall\r\nPlan:\r\n");
  expect_contains("her plan", found,
                  "To ?[31mpaint? it r\xc3\xa9"
                  "d?\r\n\tsoon\r\n");
  expect_equal("with /W", fingered(server, "/W ann\r\n"), found);
  expect_equal("a bare end of line", fingered(server, "ann\n"), found);
  expect_equal("by her name", fingered(server, "aNN\r\n"), found);
  const std::string both = fingered(server, "example\r\n");
  expect_contains("the one", both, about_ann);
  expect_contains("the other", both, "Login: bob");
  expect_contains("somebody else's file is no plan", fingered(server, "bob\r\n"), "No plan.\r\n");
  for (const char* nobody : {"daemon", "nobody", "zed", "half"})
    expect_equal(nobody, fingered(server, std::string(nobody) + "\r\n"),
                 std::string(nobody) + ": no such user.\r\n");
  expect_equal("no control characters back", fingered(server, "\x1b[0m\r\n"),
               "?[0m: no such user.\r\n");
  for (const char* forwarded : {"@host", "ann@host", "/W ann@host@other"})
    expect_equal(forwarded, fingered(server, std::string(forwarded) + "\r\n"),
                 "Forwarding is not offered.\r\n");
  expect_equal("failed", server.pool("finger")["connections"]["failed"], 0);
  Client endless(server.address("finger"));
  endless.send(std::string(600, 'a'));
  expect(endless.is_ended(), "a line too long");
  server.wait_for("/connections/failed", 1, "finger");
}

// --- both of them under load, while their limits are moved

constexpr double kLoadSeconds = 10;
constexpr int kClients = 16;

void exchange(Client& client, const std::string& sent, const std::string& expected) {
  client.send(sent);
  client.half_close();
  if (const std::string answer = client.read_until_eof(); answer != expected)
    throw Failure("a wrong answer: " + answer);
}

void under_load() {
  if (cannot_run()) return;
  const std::string passwd = scripts().write("passwd", "root:x:0:0:root:/nonexistent:/bin/bash\n");
  const std::string few = "min = 2; max = 8; min_spare = 1; max_spare = 8; shrink_after = 0.5;";
  Server server({serving("jsonrpc", "python3", example("jsonrpc/app.py"), "", few),
                 serving("finger", "perl", example("finger/finger.pl"),
                         "passwd = \"" + passwd + "\";", few)});
  Load sums(server.address("jsonrpc"), kClients, [](Client& client) {
    exchange(client, asking("mean", "[[1, 2, 6]]", "1") + "\n", result_of("3", "1") + "\n");
  });
  Load names(server.address("finger"), kClients, [](Client& client) {
    exchange(client, "\r\n", "Login            Name\r\nroot             root\r\n");
  });
  // By little each time: what an interpreter needs to start is time that the clients do not have.
  const std::vector<std::string> limits[] = {{"min=4", "min_spare=2", "max=10"},
                                             {"min=3", "min_spare=1", "max=8"},
                                             {"min=2", "min_spare=1", "max=7"},
                                             {"min=3", "min_spare=2", "max=9"}};
  size_t moves = 0;
  auto have_shrunk = [&] {
    return server.pool("jsonrpc")["lifetime"]["retired"] >= 10 &&
           server.pool("finger")["lifetime"]["retired"] >= 10;
  };
  const Nanoseconds began = monotonic_now();
  auto has_lasted = [&](double seconds) {
    return monotonic_now() - began >= from_seconds(seconds);
  };
  // Longer on a machine with others on it.
  for (; !has_lasted(kLoadSeconds) ||
         (!has_lasted(kLoadSeconds + 2 * kPatience) && (moves < 20 || !have_shrunk()));
       ++moves) {
    for (const char* pool : {"jsonrpc", "finger"}) {
      std::vector<std::string> words{"set", pool};
      const auto& moved = limits[moves % std::size(limits)];
      words.insert(words.end(), moved.begin(), moved.end());
      const Outcome set = server.ctl(words);
      expect_equal("set: " + set.err, set.code, 0);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(90));
  }
  sums.stop();
  names.stop();
  expect_equal("jsonrpc", sums.error(), "");
  expect_equal("finger", names.error(), "");
  expect(moves >= 20, "the limits were moved " + std::to_string(moves) + " times");
  for (const auto& [pool, load] : {std::pair{"jsonrpc", &sums}, {"finger", &names}}) {
    expect_exact_figures(server, pool, load->done());
    const Json now = server.pool(pool);
    expect_equal("served", now["connections"]["served"].get<uint64_t>(), load->done());
    expect_equal("failed", now["connections"]["failed"], 0);
    expect(now["lifetime"]["retired"] >= 10, "it shrank: " + now["lifetime"].dump());
    std::cout << "\n  " << pool << ": " << load->done() << " served, " << now["lifetime"]["forked"]
              << " workers";
  }
  std::cout << "\n";
}

}  // namespace

Suite serving_suite() {
  return {
      "serving",
      {{"README.md", readme},
       {"what is around a connection", [] { speak(surroundings); }},
       {"on a Unix socket", [] { speak(on_a_unix_socket); }},
       {"buffered in Python", buffered_in_python},
       {"throws", [] { speak(throws); }},
       {"closes it itself", [] { speak(closes_it_itself); }},
       {"breaks at the end", [] { speak(breaks_at_the_end); }},
       {"extends", [] { speak(extends); }},
       {"recycles", [] { speak(recycles); }},
       {"outside of preforkd", outside_of_preforkd},
       {"JSON-RPC", jsonrpc},
       {"JSON-RPC takes too long", jsonrpc_takes_too_long},
       {"finger", finger},
       {"under load, while limits are moved", under_load},
       {"preloaded: what is shared, and what is not", [] { preloaded(shared_and_own); }},
       {"preloaded: what is around a connection", [] { preloaded([] { speak(surroundings); }); }},
       {"preloaded: throws", [] { preloaded([] { speak(throws); }); }},
       {"preloaded: recycles", [] { preloaded([] { speak(recycles); }); }},
       {"preloaded: JSON-RPC", [] { preloaded(jsonrpc); }},
       {"preloaded: finger", [] { preloaded(finger); }},
       {"preloaded: under load, while limits are moved", [] { preloaded(under_load); }}}};
}

}  // namespace preforkd::system_test
