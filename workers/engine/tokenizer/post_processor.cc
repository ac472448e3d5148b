// One class a post-processor, and the table from type names to their makers.
#include "workers/engine/tokenizer/post_processor.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tokenizer/bpe.h"
#include "workers/engine/tokenizer/component.h"

namespace quantd {
namespace {

using Ids = std::vector<int32_t>;
using Made = MadeComponent<PostProcessor>;
Made Make(const JsonView& json, int depth);

// Moves offsets only, which this program does not keep.
class ByteLevel : public PostProcessor {
 public:
  void Apply(Ids*) const override {}
};

class Template : public PostProcessor {
 public:
  struct Item {
    bool is_text = false;
    Ids ids;  // Of a special token.
  };
  explicit Template(std::vector<Item> items) : items_(std::move(items)) {}

  void Apply(Ids* ids) const override {
    Ids out;
    for (const Item& item : items_) {
      const Ids& source = item.is_text ? *ids : item.ids;
      out.insert(out.end(), source.begin(), source.end());
    }
    *ids = std::move(out);
  }

 private:
  const std::vector<Item> items_;
};

class Sequence : public PostProcessor {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PostProcessor>> parts) : parts_(std::move(parts)) {}
  void Apply(Ids* ids) const override {
    for (const auto& part : parts_) part->Apply(ids);
  }

 private:
  const std::vector<std::unique_ptr<PostProcessor>> parts_;
};

Made MakeByteLevel(const JsonView&, int) { return std::make_unique<ByteLevel>(); }

absl::StatusOr<Template::Item> ReadItem(const JsonView& json, const JsonView& special_tokens) {
  QD_ASSIGN_OR_RETURN(JsonView sequence, json.Member("Sequence"));
  if (!sequence.IsNull()) {
    QD_ASSIGN_OR_RETURN(std::string which, sequence.StringOr("id", "A"));
    if (which != "A") return sequence.Error("a template for one text may only use sequence A");
    return Template::Item{.is_text = true, .ids = {}};
  }
  QD_ASSIGN_OR_RETURN(JsonView special, json.Member("SpecialToken"));
  if (special.IsNull()) return json.Error("must hold \"Sequence\" or \"SpecialToken\"");
  QD_ASSIGN_OR_RETURN(JsonView name, special.Member("id"));
  QD_ASSIGN_OR_RETURN(std::string token, name.String());
  QD_ASSIGN_OR_RETURN(JsonView definition, special_tokens.Member(token));
  if (definition.IsNull()) return name.Error("is not among special_tokens");
  QD_ASSIGN_OR_RETURN(JsonView ids, definition.Member("ids"));
  QD_ASSIGN_OR_RETURN(std::vector<JsonView> elements, ids.Elements());
  Template::Item item;
  for (const JsonView& element : elements) {
    QD_ASSIGN_OR_RETURN(int64_t id, element.Integer(0, Bpe::kIdLimit - 1));
    item.ids.push_back(static_cast<int32_t>(id));
  }
  return item;
}

Made MakeTemplate(const JsonView& json, int) {
  QD_ASSIGN_OR_RETURN(JsonView single, json.Member("single"));
  QD_ASSIGN_OR_RETURN(std::vector<JsonView> elements, single.Elements());
  QD_ASSIGN_OR_RETURN(JsonView special_tokens, json.Member("special_tokens"));
  std::vector<Template::Item> items;
  for (const JsonView& element : elements) {
    QD_ASSIGN_OR_RETURN(Template::Item item, ReadItem(element, special_tokens));
    items.push_back(std::move(item));
  }
  return std::make_unique<Template>(std::move(items));
}

// BertProcessing and RobertaProcessing: one token before and one after, each as [content, id].
Made MakeEnclosing(const JsonView& json, int) {
  std::vector<Template::Item> items(3);
  for (const auto& [name, index] : {std::pair("cls", 0), std::pair("sep", 2)}) {
    QD_ASSIGN_OR_RETURN(JsonView pair, json.Member(name));
    QD_ASSIGN_OR_RETURN(std::vector<JsonView> elements, pair.Elements());
    if (elements.size() != 2) return pair.Error("must be [content, id]");
    QD_ASSIGN_OR_RETURN(int64_t id, elements[1].Integer(0, Bpe::kIdLimit - 1));
    items[index].ids = {static_cast<int32_t>(id)};
  }
  items[1].is_text = true;
  return std::make_unique<Template>(std::move(items));
}

Made MakeSequence(const JsonView& json, int depth) {
  QD_ASSIGN_OR_RETURN(auto parts,
                      MakeComponentList<PostProcessor>(Make, json, "processors", depth));
  return std::make_unique<Sequence>(std::move(parts));
}

constexpr ComponentKind<PostProcessor> kKinds[] = {
    {"TemplateProcessing", MakeTemplate}, {"ByteLevel", MakeByteLevel},
    {"BertProcessing", MakeEnclosing},    {"RobertaProcessing", MakeEnclosing},
    {"Sequence", MakeSequence},
};

Made Make(const JsonView& json, int depth) { return MakeComponent(kKinds, json, depth); }

}  // namespace

absl::StatusOr<std::unique_ptr<PostProcessor>> PostProcessor::FromJson(const JsonView& json) {
  if (json.IsNull()) return nullptr;
  return Make(json, 0);
}

}  // namespace quantd
