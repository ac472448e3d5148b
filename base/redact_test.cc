// What is taken out and what is left alone.
#include "base/redact.h"

#include <gtest/gtest.h>

namespace quantd {
namespace {

TEST(Redact, CredentialsOfAKnownShape) {
  const std::string hub = "hf_" + std::string(34, 'a');
  EXPECT_EQ(RedactSecrets("token " + hub + "."), "token hf_***.");
  EXPECT_EQ(RedactSecrets(hub + hub), "hf_***");
  EXPECT_EQ(RedactSecrets("{\"k\":\"" + hub + "\",\"l\":\"" + hub + "\"}"),
            "{\"k\":\"hf_***\",\"l\":\"hf_***\"}");
  EXPECT_EQ(RedactSecrets("Bearer qdt_0123456789ab_" + std::string(43, 'z')), "Bearer qdt_***");
  EXPECT_EQ(RedactSecrets("AKIAIOSFODNN7EXAMPLE!"), "AKIA***!");
  EXPECT_EQ(RedactSecrets("https://ada:pass@host/x and http://b:c@d"),
            "https://ada:***@host/x and http://b:***@d");
  EXPECT_TRUE(HoldsSecret(hub));
  EXPECT_FALSE(HoldsSecret(RedactSecrets("https://ada:pass@host " + hub)));
}

TEST(Redact, HarmlessTextStays) {
  for (const char* text :
       {"", "hf_", "hf_config", "meta-llama/Llama-3.2-1B", "self_hf_abcdefghijklmnopqrstuvwxyz",
        "qdt_0123456789ab", "tokens/0123456789ab", "AKIA is short", "http://host:8080/a@b",
        "http://host/a:b@c", "layers.3.q_proj: 4:bits@group", "a://b:@c"}) {
    EXPECT_EQ(RedactSecrets(text), text);
    EXPECT_FALSE(HoldsSecret(text)) << text;
  }
}

TEST(Redact, GivenValuesInPlainTextAndInJson) {
  const Redactor redactor({"pa\"ss\nword", "short", "long-value", "long-value-and-more"});
  EXPECT_EQ(redactor.Apply("x pa\"ss\nword y"), "x *** y");
  EXPECT_EQ(redactor.Apply(R"({"a":"pa\"ss\nword"})"), R"({"a":"***"})");
  EXPECT_EQ(redactor.Apply("short stays"), "short stays");
  EXPECT_EQ(redactor.Apply("long-value-and-more, long-value"), "***, ***");
  EXPECT_EQ(Redactor().Apply("nothing given"), "nothing given");
}

}  // namespace
}  // namespace quantd
