// base/networks, worker/proxy_protocol: who may connect, as an operator writes it and as a proxy says it. The first
// byte says which.
#include <arpa/inet.h>

#include "base/networks.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/shown.h"
#include "worker/proxy_protocol.h"

using namespace preforkd;
using fuzz::must;

namespace {

void check(const std::optional<ProxyHeader>& header, const std::string& error) {
  must(header.has_value() == error.empty(), "a header, or what is wrong with it", error);
  if (!header) return;
  must(header->source.has_value() == header->destination.has_value(), "both addresses, or none");
  if (!header->source) return;
  must(header->source->storage.ss_family == header->destination->storage.ss_family,
       "of one family");
  for (const auto* address : {&*header->source, &*header->destination}) {
    const std::string text = to_string(*address);
    fuzz::must_be_writable(*address, text);
    must(ip_of(*address).has_value(), "it is an address to be let in, or not", text);
  }
}

void line(std::string_view bytes) {
  std::string error;
  check(parse_proxy_line(bytes, error), error);
}

void block(std::string_view bytes) {
  std::string error;
  const auto size = proxy_block_size(bytes.substr(0, kProxyFixed2), error);
  must(size.has_value() == error.empty(), "a size, or what is wrong", error);
  must(!size || (*size >= kProxyFixed2 && *size <= kProxyLongest2), "the size is bounded");
  error.clear();
  check(parse_proxy_block(bytes, error), error);
}

void network(std::string_view text) {
  std::string error;
  const auto parsed = parse_network(text, error);
  must(parsed.has_value() == error.empty(), "a network, or what was expected", error);
  if (!parsed) return;
  must(parsed->contains(parsed->address), "a network contains its first address");
  must(parsed->prefix <= (parsed->address.v6 ? 128 : 32), "a prefix fits its family");
  const AccessList only{{*parsed}, {}}, all_but{{}, {*parsed}};
  must(only.lets_in(parsed->address) && !all_but.lets_in(parsed->address),
       "a list means what it says");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes = fuzz::text_of(data, size);
  if (bytes.empty()) return 0;
  constexpr void (*kKinds[])(std::string_view) = {line, block, network};
  kKinds[static_cast<uint8_t>(bytes.front()) % 3](bytes.substr(1));
  return 0;
}
