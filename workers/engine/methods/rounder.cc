// See rounder.h.
#include "workers/engine/methods/rounder.h"

#include "workers/engine/methods/common.h"
#include "workers/engine/methods/gguf_blocks.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {

Rounder RounderOf(const nlohmann::json& options, int64_t inputs) {
  if (options.contains("type")) {
    const BlockEncoding* encoding =
        FindGgufEncoding(GgufTypeFor(options.at("type").get<std::string>(), inputs));
    // Plain numbers have no groups; their scales are compared over whole rows.
    return {encoding->block_weights == 1 ? inputs : encoding->block_weights, false,
            [encoding](const at::Tensor& weight) {
              return QuantizeToBlocks(weight, *encoding, {}).Dequantize(at::kFloat);
            }};
  }
  const IntegerScheme scheme = IntegerSchemeOf(options, inputs);
  return {scheme.group_columns, true, [scheme](const at::Tensor& weight) {
            QuantizedLinear linear =
                EmptyLinear(scheme, weight.size(0), weight.size(1), weight.device());
            RoundToNearest(weight, scheme, {}, linear);
            return linear.Dequantize(at::kFloat);
          }};
}

}  // namespace quantd::engine
