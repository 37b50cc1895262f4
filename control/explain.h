// A decision of the scaler as a sentence that a person understands at 3 a.m. Pure.
#pragma once

#include <string>

#include "shm/reader.h"

namespace preforkd {

std::string explain(const shm::DecisionView& decision);

}  // namespace preforkd
