// Walks the tree. Scopes are as in Jinja: what a loop sets is gone after it, but for the attributes
// of a namespace.
#include "workers/engine/evaluation/template.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/template_syntax.h"
#include "workers/engine/evaluation/template_values.h"

namespace quantd::engine {
namespace {

using Value = TemplateValue;
using Result = absl::StatusOr<Value>;

// range() and loops over it.
constexpr int64_t kRangeMax = 1 << 20;

class Renderer {
 public:
  Renderer(const Value& variables, bool strict) : strict_(strict) {
    scopes_.emplace_back();
    for (const auto& item : variables.items()) scopes_[0][item.key()] = item.value();
  }

  absl::Status Run(const std::vector<Statement>& body, std::string* out) {
    for (const Statement& statement : body) {
      QD_RETURN_IF_ERROR(RunOne(statement, out), "line ", statement.line);
      if (out->size() > Template::kOutputBytesMax) {
        return absl::InvalidArgumentError("the template's output is too long");
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status RunOne(const Statement& statement, std::string* out) {
    switch (statement.kind) {
      case Statement::Kind::kText:
        out->append(statement.text);
        return absl::OkStatus();
      case Statement::Kind::kOutput: {
        QD_ASSIGN_OR_RETURN(const Value value, Evaluate(statement.expression));
        if (IsUndefined(value) && strict_) {
          return absl::InvalidArgumentError(
              absl::StrCat("the variable \"", statement.expression.text, "\" is not there"));
        }
        out->append(ToText(value));
        return absl::OkStatus();
      }
      case Statement::Kind::kIf:
        for (const Statement::Branch& branch : statement.branches) {
          QD_ASSIGN_OR_RETURN(const Value condition, Evaluate(branch.condition));
          if (Truth(condition)) return Run(branch.body, out);
        }
        return absl::OkStatus();
      case Statement::Kind::kFor:
        return RunFor(statement, out);
      case Statement::Kind::kSet:
        return RunSet(statement);
    }
    return absl::OkStatus();
  }

  absl::Status Bind(const std::vector<std::string>& names, const Value& item) {
    if (names.size() == 1) {
      scopes_.back()[names[0]] = item;
      return absl::OkStatus();
    }
    if (!item.is_array() || item.size() != names.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a loop over ", names.size(), " names needs lists of as many values"));
    }
    for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = item[i];
    return absl::OkStatus();
  }

  absl::Status RunFor(const Statement& statement, std::string* out) {
    QD_ASSIGN_OR_RETURN(const Value walked, Evaluate(statement.expression));
    if (!walked.is_array() && !walked.is_object() && !walked.is_string() && !IsUndefined(walked)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a loop cannot walk over a ", walked.type_name()));
    }
    QD_ASSIGN_OR_RETURN(const Value all, ApplyFilter("list", {{walked}, {}}));
    scopes_.emplace_back();
    Value items = Value::array();
    for (const Value& item : all) {
      QD_RETURN_IF_ERROR(Bind(statement.names, item));
      bool wanted = true;
      if (!statement.filter.empty()) {
        QD_ASSIGN_OR_RETURN(const Value condition, Evaluate(statement.filter[0]));
        wanted = Truth(condition);
      }
      if (wanted) items.push_back(item);
    }
    for (size_t i = 0; i < items.size(); ++i) {
      scopes_.back().clear();
      QD_RETURN_IF_ERROR(Bind(statement.names, items[i]));
      scopes_.back()["loop"] = {{"index", i + 1},
                                {"index0", i},
                                {"first", i == 0},
                                {"last", i + 1 == items.size()},
                                {"length", items.size()},
                                {"revindex", items.size() - i},
                                {"revindex0", items.size() - i - 1}};
      if (i > 0) scopes_.back()["loop"]["previtem"] = items[i - 1];
      if (i + 1 < items.size()) scopes_.back()["loop"]["nextitem"] = items[i + 1];
      QD_RETURN_IF_ERROR(Run(statement.body, out));
    }
    scopes_.pop_back();
    return items.empty() ? Run(statement.otherwise, out) : absl::OkStatus();
  }

  absl::Status RunSet(const Statement& statement) {
    Value value;
    if (statement.body.empty()) {
      QD_ASSIGN_OR_RETURN(value, Evaluate(statement.expression));
    } else {
      std::string text;
      QD_RETURN_IF_ERROR(Run(statement.body, &text));
      value = text;
    }
    if (statement.text.empty()) {
      scopes_.back()[statement.names[0]] = std::move(value);
      return absl::OkStatus();
    }
    Value* space = Find(statement.names[0]);
    if (space == nullptr || !space->is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", statement.names[0], "\" is no namespace"));
    }
    (*space)[statement.text] = std::move(value);
    return absl::OkStatus();
  }

  Value* Find(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end()) return &found->second;
    }
    return nullptr;
  }

  Result Evaluate(const Expression& e) {
    using Kind = Expression::Kind;
    switch (e.kind) {
      case Kind::kLiteral:
        return e.value;
      case Kind::kName: {
        const Value* found = Find(e.text);
        return found == nullptr ? Undefined() : *found;
      }
      case Kind::kAttribute: {
        QD_ASSIGN_OR_RETURN(const Value object, Evaluate(e.arguments[0]));
        return GetItem(object, e.text);
      }
      case Kind::kConditional: {
        QD_ASSIGN_OR_RETURN(const Value condition, Evaluate(e.arguments[1]));
        return Evaluate(e.arguments[Truth(condition) ? 0 : 2]);
      }
      case Kind::kCall:
        return Call(e);
      case Kind::kBinary:
        return Binary(e);
      default:
        return WithValues(e);
    }
  }

  Result Binary(const Expression& e) {
    QD_ASSIGN_OR_RETURN(const Value left, Evaluate(e.arguments[0]));
    if (e.text == "and" && !Truth(left)) return left;
    if (e.text == "or" && Truth(left)) return left;
    QD_ASSIGN_OR_RETURN(const Value right, Evaluate(e.arguments[1]));
    if (e.text == "and" || e.text == "or") return right;
    return ApplyBinary(e.text, left, right);
  }

  absl::StatusOr<TemplateArguments> Arguments(const Expression& e, size_t first) {
    TemplateArguments given;
    for (size_t i = first; i < e.arguments.size(); ++i) {
      QD_ASSIGN_OR_RETURN(given.values.emplace_back(), Evaluate(e.arguments[i]));
    }
    for (const auto& [name, argument] : e.named) {
      QD_ASSIGN_OR_RETURN(given.named[name], Evaluate(argument));
    }
    return given;
  }

  // The kinds that evaluate all their arguments first.
  Result WithValues(const Expression& e) {
    using Kind = Expression::Kind;
    QD_ASSIGN_OR_RETURN(const TemplateArguments given, Arguments(e, 0));
    const std::vector<Value>& values = given.values;
    switch (e.kind) {
      case Kind::kList:
        return Value(values);
      case Kind::kDict: {
        Value object = Value::object();
        for (size_t i = 0; i + 1 < values.size(); i += 2) object[ToText(values[i])] = values[i + 1];
        return object;
      }
      case Kind::kIndex:
        return GetItem(values[0], values[1]);
      case Kind::kSlice:
        return GetSlice(values[0], values[1], values[2], values[3]);
      case Kind::kFilter:
        return ApplyFilter(e.text, given);
      case Kind::kTest: {
        QD_ASSIGN_OR_RETURN(const bool holds, ApplyTest(e.text, given));
        return Value(holds != e.negated);
      }
      default:
        if (e.text == "not") return Value(!Truth(values[0]));
        return ApplyBinary("-", Value(0), values[0]);
    }
  }

  Result Call(const Expression& e) {
    const Expression& callee = e.arguments[0];
    if (callee.kind == Expression::Kind::kAttribute) {
      QD_ASSIGN_OR_RETURN(TemplateArguments given, Arguments(e, 1));
      QD_ASSIGN_OR_RETURN(Value object, Evaluate(callee.arguments[0]));
      given.values.insert(given.values.begin(), std::move(object));
      return CallMethod(callee.text, given);
    }
    QD_ASSIGN_OR_RETURN(const TemplateArguments given, Arguments(e, 1));
    if (callee.text == "raise_exception") {
      return absl::InvalidArgumentError(absl::StrCat(
          "the template refuses: ", given.values.empty() ? "" : ToText(given.values[0])));
    }
    if (callee.text == "namespace" || callee.text == "dict") {
      Value space = Value::object();
      for (const auto& [name, value] : given.named) space[name] = value;
      return space;
    }
    if (callee.text == "range") return Range(given.values);
    return absl::InvalidArgumentError(absl::StrCat("there is no function \"", callee.text,
                                                   "\" here; there are raise_exception, namespace, "
                                                   "dict and range"));
  }

  static Result Range(const std::vector<Value>& values) {
    for (const Value& value : values) {
      if (!value.is_number_integer())
        return absl::InvalidArgumentError("range needs whole numbers");
    }
    if (values.empty() || values.size() > 3) {
      return absl::InvalidArgumentError("range needs one to three numbers");
    }
    const int64_t first = values.size() > 1 ? values[0].get<int64_t>() : 0;
    const int64_t last = values[values.size() > 1 ? 1 : 0].get<int64_t>();
    const int64_t step = values.size() > 2 ? values[2].get<int64_t>() : 1;
    if (step == 0 || (last - first) / step > kRangeMax) {
      return absl::InvalidArgumentError("the range is too long");
    }
    Value list = Value::array();
    for (int64_t i = first; step > 0 ? i < last : i > last; i += step) list.push_back(i);
    return list;
  }

  const bool strict_;
  std::vector<std::map<std::string, Value>> scopes_;
};

}  // namespace

struct Template::State {
  std::vector<Statement> body;
  bool strict = true;
};

absl::StatusOr<Template> Template::Parse(absl::string_view text, const TemplateOptions& options) {
  auto state = std::make_shared<State>();
  state->strict = options.strict;
  QD_ASSIGN_OR_RETURN(state->body, ParseTemplate(text, options));
  Template result;
  result.state_ = std::move(state);
  return result;
}

absl::StatusOr<std::string> Template::Render(const nlohmann::json& variables) const {
  std::string out;
  QD_RETURN_IF_ERROR(Renderer(variables, state_->strict).Run(state_->body, &out));
  return out;
}

}  // namespace quantd::engine
