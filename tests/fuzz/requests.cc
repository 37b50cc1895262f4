// control/routes, control/limits_patch: what a client asks, when HTTP has been read. The input is
// "METHOD PATH", a line of Accept, and the body. Whatever it is, it gets one of HTTP's answers or becomes a
// request that names a pool that is there.
#include "control/routes.h"
#include "tests/fuzz/control.h"

using namespace preforkd;
using fuzz::must;

namespace {

void check_reply(const HttpReply& reply) {
  must(reply.status >= 200 && reply.status < 600, "a status of HTTP");
  must((reply.status == 405) == !reply.allow.empty(), "405 says what is allowed", reply.allow);
  if (reply.content_type != "application/json") return;
  auto json = fuzz::parsed(reply.body);
  if (reply.status >= 400) must(json["error"].is_string(), "an error has a reason", reply.body);
}

void check_request(const Request& request) {
  const bool about_pool = request.ask <= ControlAsk::kRecycle;
  must(std::string_view(request.pool) == (about_pool ? "echo" : ""), "the pool that is there");
  must((request.set != 0) == (request.ask == ControlAsk::kLimits), "limits are set by a patch");
  must(request.set < 32, "only limits that there are");
  must(request.for_ns <= 1'000'000'000 * kSecond, "no longer than 31 years");
  must(request.limits.shrink_after <= 1'000'000'000 * kSecond, "no longer than 31 years");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::Memory memory;
  Pools pools;
  fuzz::learn_all(pools, memory);
  Routes routes(pools), web(pools, std::vector<std::string>{});

  std::string_view body = fuzz::text_of(data, size);
  std::string_view path = fuzz::cut(body);
  std::string_view method = fuzz::cut(path, ' ');
  std::string_view accept = fuzz::cut(body);
  HttpCall call{method, path, accept, body, {true, 0, 0, {}}, "localhost"};

  auto over_web = web.respond(call);
  must(std::holds_alternative<HttpReply>(over_web), "over TCP nothing can be changed");
  check_reply(std::get<HttpReply>(over_web));

  auto outcome = routes.respond(call);
  auto* request = std::get_if<Request>(&outcome);
  if (!request) return check_reply(std::get<HttpReply>(outcome)), 0;
  check_request(*request);
  Answer answer;
  for (uint32_t status : {200, 409}) {
    answer.status = status;
    body.copy(answer.text, sizeof answer.text);
    check_reply(routes.conclude(*request, answer));
  }
  return 0;
}
