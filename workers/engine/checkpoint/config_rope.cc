// transformers 5 writes rope_parameters, older ones rope_scaling beside rope_theta, and the old
// name wins where both are. What each scaling's numbers mean is in models/rope.h.
#include "workers/engine/checkpoint/config_rope.h"

#include <cmath>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/field_reader.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr int64_t kPositionsMax = int64_t{1} << 40;
constexpr int64_t kContextMin = 2;  // Its logarithm divides.

// Everything a scaling's reader needs; `fields` are those of the scaling's own object.
struct ScalingReader {
  FieldReader& fields;
  const ModelConfig& config;
  RopeConfig& rope;

  // How much longer the model may get than it was trained for, where no factor says it.
  void FactorOrRatio() {
    rope.factor = static_cast<double>(config.max_position_embeddings) /
                  static_cast<double>(rope.original_max_position_embeddings);
    fields.Positive("factor", false, &rope.factor);
  }
};

void ReadFactor(ScalingReader& reader) {
  reader.fields.Positive("factor", true, &reader.rope.factor);
}

void ReadDynamic(ScalingReader& reader) {
  ReadFactor(reader);
  reader.rope.original_max_position_embeddings = reader.config.max_position_embeddings;
}

void ReadLlama3(ScalingReader& reader) {
  RopeConfig& rope = reader.rope;
  ReadFactor(reader);
  reader.fields.Positive("low_freq_factor", true, &rope.low_freq_factor);
  reader.fields.Positive("high_freq_factor", true, &rope.high_freq_factor);
  if (reader.fields.status().ok() && rope.high_freq_factor <= rope.low_freq_factor) {
    reader.fields.Fail("high_freq_factor", rope.high_freq_factor,
                       absl::StrCat("above low_freq_factor (", rope.low_freq_factor, ")"));
  }
}

// The factor by which attention gets sharper in yarn (arXiv 2309.00071), for a stretch.
double YarnScale(double stretch, double weight) {
  return stretch <= 1 ? 1.0 : 0.1 * weight * std::log(stretch) + 1.0;
}

void ReadYarn(ScalingReader& reader) {
  RopeConfig& rope = reader.rope;
  FieldReader& fields = reader.fields;
  reader.FactorOrRatio();
  fields.Positive("beta_fast", false, &rope.beta_fast);
  fields.Positive("beta_slow", false, &rope.beta_slow);
  fields.Bool("truncate", &rope.truncate);
  if (fields.status().ok() && rope.beta_fast <= rope.beta_slow) {
    fields.Fail("beta_fast", rope.beta_fast,
                absl::StrCat("above beta_slow (", rope.beta_slow, ")"));
  }
  rope.attention_factor = YarnScale(rope.factor, 1.0);
  if (fields.Has("mscale") && fields.Has("mscale_all_dim")) {
    double scale = 1, scale_all = 1;
    fields.Positive("mscale", true, &scale);
    fields.Positive("mscale_all_dim", true, &scale_all);
    rope.attention_factor = YarnScale(rope.factor, scale) / YarnScale(rope.factor, scale_all);
  }
  fields.Positive("attention_factor", false, &rope.attention_factor);
}

void ReadLongRope(ScalingReader& reader) {
  RopeConfig& rope = reader.rope;
  reader.FactorOrRatio();
  const size_t pairs = static_cast<size_t>(reader.config.RotaryDim() / 2);
  reader.fields.PositiveList("short_factor", pairs, &rope.short_factor);
  reader.fields.PositiveList("long_factor", pairs, &rope.long_factor);
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  rope.attention_factor =
      rope.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(rope.factor) / std::log(context));
  reader.fields.Positive("attention_factor", false, &rope.attention_factor);
}

struct ScalingRow {
  absl::string_view name;
  RopeScaling scaling;
  void (*read)(ScalingReader&);
};

constexpr ScalingRow kScalings[] = {
    {"default", RopeScaling::kDefault, [](ScalingReader&) {}},
    {"linear", RopeScaling::kLinear, ReadFactor},
    {"dynamic", RopeScaling::kDynamic, ReadDynamic},
    {"yarn", RopeScaling::kYarn, ReadYarn},
    {"longrope", RopeScaling::kLongRope, ReadLongRope},
    {"su", RopeScaling::kLongRope, ReadLongRope},  // Phi-3's first name for it.
    {"llama3", RopeScaling::kLlama3, ReadLlama3},
};

// The trained length: beside the scaling in Phi-3's files, in it elsewhere.
void ReadOriginalPositions(FieldReader& top, const ConfigDialect& dialect, ScalingReader& reader) {
  constexpr char kField[] = "original_max_position_embeddings";
  int64_t& length = reader.rope.original_max_position_embeddings;
  length = dialect.original_positions_default;
  if (length == 0) {
    length = reader.config.max_position_embeddings;
    reader.fields.Int(kField, kContextMin, kPositionsMax, false, &length);
  }
  top.Int(kField, kContextMin, kPositionsMax, false, &length);
}

// One object of rotary parameters; `label` is its name in the file, with a dot behind.
absl::Status ParseScaling(const json& object, const std::string& label, FieldReader& top,
                          const ConfigDialect& dialect, const ModelConfig& config,
                          RopeConfig* rope) {
  FieldReader fields(object, top.origin(), label);
  std::string type = "default";
  fields.Text("type", &type);
  fields.Text("rope_type", &type);
  fields.Positive("rope_theta", false, &rope->theta);
  QD_RETURN_IF_ERROR(fields.status());
  // Phi-3's first files say "yarn" and mean longrope, as their two lists show.
  if (type == "yarn" && dialect.model_type == "phi3") type = "longrope";
  for (const ScalingRow& row : kScalings) {
    if (row.name != type) continue;
    rope->scaling = row.scaling;
    ScalingReader reader = {fields, config, *rope};
    if (row.scaling != RopeScaling::kDefault) ReadOriginalPositions(top, dialect, reader);
    QD_RETURN_IF_ERROR(top.status());
    QD_RETURN_IF_ERROR(fields.status());
    row.read(reader);
    return fields.status();
  }
  return absl::UnimplementedError(absl::StrCat(
      top.origin(), ": ", label, "rope_type ", Quoted(type), " is not supported; supported: ",
      absl::StrJoin(kScalings, ", ", [](std::string* out, const ScalingRow& row) {
        absl::StrAppend(out, row.name);
      })));
}

absl::Status ParseRotaryPart(FieldReader& top, const json& scaling, const std::string& label,
                             const ConfigDialect& dialect, ModelConfig* config) {
  const bool known = dialect.rotary_part_default > 0;
  double part = known ? dialect.rotary_part_default : 1.0;
  FieldReader fields(scaling, top.origin(), label);
  top.Positive("partial_rotary_factor", false, &part);
  fields.Positive("partial_rotary_factor", false, &part);
  QD_RETURN_IF_ERROR(top.status());
  QD_RETURN_IF_ERROR(fields.status());
  if (part == 1.0) return absl::OkStatus();
  if (!known) {
    return absl::UnimplementedError(absl::StrCat(top.origin(), ": partial_rotary_factor ", part,
                                                 " is not supported for ", dialect.model_type,
                                                 ", only 1"));
  }
  config->rotary_dim = static_cast<int64_t>(static_cast<double>(config->head_dim) * part);
  if (part > 1 || config->rotary_dim < 2 || config->rotary_dim % 2 != 0) {
    top.Fail("partial_rotary_factor", part,
             absl::StrCat("at most 1 and rotate an even number of the head's ", config->head_dim,
                          " dimensions"));
  }
  return top.status();
}

}  // namespace

absl::string_view RopeScalingName(RopeScaling scaling) {
  for (const ScalingRow& row : kScalings) {
    if (row.scaling == scaling) return row.name;
  }
  return "";
}

absl::Status ParseRope(const json& object, absl::string_view origin, const ConfigDialect& dialect,
                       ModelConfig* config) {
  if (dialect.rope_theta_default == 0) return absl::OkStatus();  // Positions are learned.
  FieldReader top(object, origin);
  if (config->head_dim % 2 != 0) {
    top.Fail("head_dim", config->head_dim, "even, for rotary position embedding");
  }
  const char* name = top.Has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  if (top.Has(name) && !top.At(name).is_object()) top.Fail(name, top.At(name), "an object");
  config->rope.theta = dialect.rope_theta_default;
  top.Positive("rope_theta", false, &config->rope.theta);
  QD_RETURN_IF_ERROR(top.status());
  const json empty = json::object();
  const json& scaling = top.Has(name) ? top.At(name) : empty;
  const auto of_layers = [&](const char* layers) -> const json& {
    const auto found = scaling.find(layers);
    return found != scaling.end() && found->is_object() ? *found : empty;
  };
  const bool nested = scaling.contains("full_attention") || scaling.contains("sliding_attention");
  if (nested && !dialect.local_rope) {
    return absl::UnimplementedError(absl::StrCat(origin, ": ", name, " by layer type is not ",
                                                 "supported for ", dialect.model_type));
  }
  const std::string label = absl::StrCat(name, nested ? ".full_attention." : ".");
  const json& own = nested ? of_layers("full_attention") : scaling;
  QD_RETURN_IF_ERROR(ParseRotaryPart(top, own, label, dialect, config));
  QD_RETURN_IF_ERROR(ParseScaling(own, label, top, dialect, *config, &config->rope));
  if (!dialect.local_rope) return absl::OkStatus();
  config->local_rope.emplace();
  top.Positive("rope_local_base_freq", false, &config->local_rope->theta);
  QD_RETURN_IF_ERROR(top.status());
  return ParseScaling(of_layers("sliding_attention"), absl::StrCat(name, ".sliding_attention."),
                      top, dialect, *config, &*config->local_rope);
}

}  // namespace quantd::engine
