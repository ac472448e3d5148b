// Test support: certificates made on the spot.
#pragma once

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"

namespace quantd {

// An authority and what it signs, as PEM.
class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name) : key_(NewKey()) {
    certificate_ = Make(name, key_, "", absl::Hours(24), /*authority=*/true);
  }
  ~TestAuthority() {
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }
  TestAuthority(const TestAuthority&) = delete;

  void WriteCa(const std::string& path) const { Write(path, Pem(certificate_)); }
  // `names`: "DNS:localhost,IP:127.0.0.1". A certificate that ends before now has expired.
  void Issue(const std::string& names, const std::string& certificate_path,
             const std::string& key_path, absl::Duration lifetime = absl::Hours(1)) const {
    EVP_PKEY* key = NewKey();
    X509* certificate = Make("leaf", key, names, lifetime, /*authority=*/false);
    Write(key_path, Pem(key));
    Write(certificate_path, Pem(certificate));
    X509_free(certificate);
    EVP_PKEY_free(key);
  }

 private:
  static EVP_PKEY* NewKey() { return EVP_EC_gen("P-256"); }
  static void Write(const std::string& path, const std::string& text) {
    QD_CHECK(WriteFileAtomic(path, text).ok());
  }
  template <typename Thing>
  static std::string Pem(Thing* thing) {
    BIO* bio = BIO_new(BIO_s_mem());
    if constexpr (std::is_same_v<Thing, X509>) {
      PEM_write_bio_X509(bio, thing);
    } else {
      PEM_write_bio_PrivateKey(bio, thing, nullptr, nullptr, 0, nullptr, nullptr);
    }
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);  // NOLINT: OpenSSL's own type.
    std::string text(data, static_cast<size_t>(size));
    BIO_free(bio);
    return text;
  }
  X509* Make(const std::string& name, EVP_PKEY* key, const std::string& names,
             absl::Duration lifetime, bool authority) const {
    static long serial = 1;  // NOLINT: OpenSSL's own type.
    X509* made = X509_new();
    X509_set_version(made, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made), ++serial);
    const int64_t end_s = absl::ToInt64Seconds(lifetime);
    X509_gmtime_adj(X509_getm_notBefore(made), end_s < 0 ? 2 * end_s : -60);
    X509_gmtime_adj(X509_getm_notAfter(made), end_s);
    X509_set_pubkey(made, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(made), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509* issuer = authority ? made : certificate_;
    X509_set_issuer_name(made, X509_get_subject_name(issuer));
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, made, nullptr, nullptr, 0);
    const auto add = [&](int kind, const std::string& value) {
      X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
      X509_add_ext(made, extension, -1);
      X509_EXTENSION_free(extension);
    };
    add(NID_basic_constraints, authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (!names.empty()) add(NID_subject_alt_name, names);
    X509_sign(made, key_, EVP_sha256());
    return made;
  }

  EVP_PKEY* key_ = nullptr;
  X509* certificate_ = nullptr;
};

}  // namespace quantd
