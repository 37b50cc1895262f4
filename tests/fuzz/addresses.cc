// base/address, conf/check, control/host, shm/peer: addresses as users write them, and as the kernel or a worker's memory
// has them. The first byte says which; no name is looked up.
#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "base/address.h"
#include "conf/check.h"
#include "control/host.h"
#include "daemon/resolve.h"
#include "shm/peer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/shown.h"

using namespace preforkd;
using fuzz::must;
using fuzz::parse;
using Kind = ListenAddress::Kind;

namespace {

std::string written(const ListenAddress& a) {
  if (a.kind == Kind::kUnix) return "unix:" + a.path;
  if (a.kind == Kind::kSystemd) return "systemd:" + a.path;
  bool v6 = a.host.find(':') != a.host.npos;
  return (v6 ? "[" + a.host + "]" : a.host) + ":" + std::to_string(a.port);
}

bool is_numeric(const std::string& host) {
  in_addr v4;
  in6_addr v6;
  return inet_aton(host.c_str(), &v4) || inet_pton(AF_INET6, host.c_str(), &v6) == 1;
}

void listen_address(const std::string& text) {
  auto address = parse(text);
  if (!address) return;
  must(parse(written(*address)) == address, "an address is written as it was read", text);
  auto one = parse(normalized(*address));  // of "unix:/a/.." nothing is left that could be written
  must(!one || normalized(*one) == normalized(*address), "the normal form is its own", text);
  if (address->kind == Kind::kSystemd ||
      (address->kind == Kind::kTcp && !is_numeric(address->host)))
    return;
  // The kernel would show the socket under the name by which two of one address are told.
  std::string shown = to_string(resolve(*address));
  must(shown == (address->kind == Kind::kTcp ? normalized(*address) : written(*address)),
       "an address is shown as it was read", text + " becomes " + shown);
}

// As getpeername() and getsockname() leave it: whatever the length says, it lies in the storage.
void kernel_address(std::string_view bytes) {
  SocketAddress address;
  size_t size = std::min(bytes.size(), sizeof address.storage);
  std::memcpy(&address.storage, bytes.data(), size);
  address.length = static_cast<socklen_t>(size);
  std::string text = to_string(address);
  if (address.storage.ss_family == AF_INET || address.storage.ss_family == AF_INET6)
    fuzz::must_be_writable(address, text);
  if (size < sizeof(sockaddr_in6)) return;
  std::string peer = shm::peer_text(shm::pack_peer(address.get()));
  must(peer == (text.starts_with("unix:") || text == "?" ? "" : text), "a peer is kept as it was",
       peer);
}

// What is ours stays so with a port, and nobody's name becomes ours by what stands before or behind it.
void host_header(const std::string& text) {
  const HostVerdict verdict = judge_host(text, {"a.example"});
  const bool may_have_port = text.find(':') == text.npos || text.ends_with(']');
  const bool has_end = text.ends_with(' ') || text.ends_with('\t');
  if (verdict != HostVerdict::kNonsense && may_have_port && !has_end)
    must(judge_host(text + ":9707", {"a.example"}) == verdict, "a port changes nothing", text);
  must(judge_host(text + ".evil", {"a.example"}) != HostVerdict::kOurs, "of a stranger", text);
  must(judge_host(text + "@localhost", {}) == HostVerdict::kNonsense, "no user names", text);
}

void words_of_memory(std::string_view bytes) {
  shm::PeerWords words{};
  std::memcpy(words.data(), bytes.data(), std::min(bytes.size(), sizeof words));
  shm::peer_text(words);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes = fuzz::text_of(data, size);
  if (bytes.empty()) return 0;
  std::string_view rest = bytes.substr(1);
  if (bytes.front() == 'k')
    kernel_address(rest);
  else if (bytes.front() == 'h')
    host_header(std::string(rest));
  else if (bytes.front() == 'w')
    words_of_memory(rest);
  else
    listen_address(std::string(rest));
  return 0;
}
