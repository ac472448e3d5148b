// What Jinja prints for the same templates, and that what is not understood is said.
#include "workers/engine/evaluation/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "workers/engine/evaluation/chat.h"

namespace quantd::engine {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

std::string Render(const std::string& text, const json& variables,
                   const TemplateOptions& options = {}) {
  const auto parsed = Template::Parse(text, options);
  if (!parsed.ok()) return std::string(parsed.status().message());
  const auto rendered = parsed->Render(variables);
  return rendered.ok() ? *rendered : std::string(rendered.status().message());
}

const json kDocument = {
    {"q", "Why?"},
    {"n", 3},
    {"list", {"a", "b", "c"}},
    {"map", {{"x", 1}, {"y", nullptr}}},
    {"empty", json::array()},
    {"messages",
     {{{"role", "user"}, {"content", " hi "}}, {{"role", "assistant"}, {"content", "yes"}}}}};

TEST(TemplateTest, PrintsWhatJinjaPrints) {
  const struct {
    const char* text;
    const char* printed;
  } kCases[] = {
      {"Q: {{q}}\n", "Q: Why?\n"},
      {"{{ n + 1 }} {{ n / 2 }} {{ n // 2 }} {{ n % 2 }} {{ -n }}", "4 1.5 1 1 -3"},
      {"{{ list[-1] }}{{ list[1:] }}{{ q[:2] }}{{ q[::-1] }}", "c['b', 'c']Wh?yhW"},
      {"{% for x in list %}{{loop.index}}{{x}}{% if not loop.last %},{% endif %}{% endfor %}",
       "1a,2b,3c"},
      {"{% for x in empty %}x{% else %}none{% endfor %}", "none"},
      {"{% for k, v in map.items() %}{{k}}={{v}};{% endfor %}", "x=1;y=None;"},
      {"{% set a = q ~ n %}{{a|lower|replace('?', '')}}", "why3"},
      {"{% set ns = namespace(f=0) %}{% for x in list %}{% set ns.f = ns.f + 1 %}{% endfor "
       "%}{{ns.f}}",
       "3"},
      {"{{ 'yes' if n > 2 and 'a' in list else 'no' }}", "yes"},
      {"{{ z is defined }} {{ map.y is none }} {{ q is string }} {{ n is not odd }}",
       "False True True False"},
      {"{{ list|join('-') }} {{ list|length }} {{ map|tojson }}",
       "a-b-c 3 {\"x\": 1, \"y\": null}"},
      {"{{ ' x '.strip() }}{{ 'a b'.split(' ')[1] }}{{ 'abc'.startswith(('x', 'a')) }}", "xbTrue"},
      {"a  {#- note -#}  b {%- if true -%} c {%- endif -%} d",
       "ab"
       "cd"},
      {"{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join }}",
       " hi "},
      {"{{ \"'\" }}{{ '\\n' }}{{ ['it\\'s'] }}", "'\n[\"it's\"]"},
      {"{{ list.index('b') }}{{ map.get('z', 7) }}{{ '5'|int + 1 }}", "176"},
      {"{{ z | default('d') }}{{ range(3)|list }}", "d[0, 1, 2]"},
  };
  for (const auto& test : kCases)
    EXPECT_EQ(Render(test.text, kDocument), test.printed) << test.text;
}

TEST(TemplateTest, WhiteSpaceOfBlocks) {
  const char kText[] =
      "{% for m in messages %}\n    {% if true %}\n{{ m.role }}\n    {% endif %}\n{% endfor "
      "%}\nend\n";
  EXPECT_EQ(Render(kText, kDocument, {.trim_blocks = true, .lstrip_blocks = true}),
            "user\nassistant\nend\n");
}

TEST(TemplateTest, RefusesWithTheLine) {
  const struct {
    const char* text;
    const char* words;
  } kCases[] = {
      {"a\n{{ q", "line 2: \"{{\" is not closed"},
      {"{% macro x() %}{% endmacro %}", "{% macro %} is not understood"},
      {"{% if q %}", "endif %} is missing"},
      {"\n{{ q | sing }}", "line 2: there is no filter \"sing\""},
      {"{{ q.shout() }}", "no method \"shout\""},
      {"{{ nothing }}", "the variable \"nothing\" is not there"},
      {"{{ nothing.more }}", "an undefined value has no \"more\""},
      {"{{ raise_exception('roles must alternate') }}", "roles must alternate"},
      {"{{ q + 1 }}", "cannot be applied to"},
      {"{{ 1 / 0 }}", "division by zero"},
      {"{{ 'a' * 100000000 }}", "too long"},
      {"{{ q q }}", "the tag should end"},
      {"{{ $ }}", "'$' is not understood"},
  };
  for (const auto& test : kCases) EXPECT_THAT(Render(test.text, kDocument), HasSubstr(test.words));
  EXPECT_THAT(Render(std::string(10000, '(').insert(0, "{{"), kDocument), HasSubstr("not closed"));
  EXPECT_THAT(Render("{{" + std::string(10000, '(') + "}}", kDocument), HasSubstr("too deep"));
}

// The shapes of templates that published models have: a namespace, a system message taken out of
// the list, refusals, strips.
TEST(TemplateTest, ChatTemplates) {
  const char kText[] =
      "{{- bos_token }}\n"
      "{%- if messages[0]['role'] == 'system' %}\n"
      "    {%- set system = messages[0]['content']|trim %}\n"
      "    {%- set messages = messages[1:] %}\n"
      "{%- else %}\n"
      "    {%- set system = '' %}\n"
      "{%- endif %}\n"
      "{%- for message in messages %}\n"
      "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
      "        {{- raise_exception('roles must alternate') }}\n"
      "    {%- endif %}\n"
      "    {{- '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}\n"
      "{%- endfor %}\n"
      "{%- if add_generation_prompt %}\n"
      "    {{- '<|assistant|>\\n' }}\n"
      "{%- endif %}";
  const auto parsed =
      Template::Parse(kText, {.trim_blocks = true, .lstrip_blocks = true, .strict = false});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const ChatTemplate chat{.text = *parsed, .bos = "<s>", .eos = "</s>", .digest = ""};
  EXPECT_EQ(*chat.Render("be kind", " Hi "), "<s><|user|>Hi</s><|assistant|>\n");
  EXPECT_EQ(*chat.Render("", "Hi"), "<s><|user|>Hi</s><|assistant|>\n");
}

}  // namespace
}  // namespace quantd::engine
