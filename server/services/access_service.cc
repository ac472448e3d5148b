// Thin: the meaning is the room auth's.
#include "server/services/access_service.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/names.h"
#include "server/services/unary.h"

namespace quantd {
namespace {
constexpr char kService[] = "quantd.v1.AccessService";
constexpr int kSecretsOfAJobMax = 100;  // Each is looked up.
}  // namespace

void CheckSecrets(const ServiceContext& context, const std::string& parent,
                  const google::protobuf::RepeatedPtrField<std::string>& secrets,
                  SpecFindings* findings) {
  if (secrets.empty()) return;
  const auto tenant = ParseTenantName(parent);
  if (!tenant.ok()) return;  // The queue says so.
  if (secrets.size() > kSecretsOfAJobMax) {
    findings->violations.push_back(
        {"spec.secrets",
         absl::StrCat("has ", secrets.size(), " entries; at most ", kSecretsOfAJobMax)});
    return;
  }
  for (int i = 0; i < secrets.size(); ++i) {
    absl::Status status = CheckSecretId(secrets[i]);
    if (status.ok()) status = context.secrets->Open(*tenant, {secrets[i]}).status();
    if (!status.ok()) {
      findings->violations.push_back(
          {absl::StrCat("spec.secrets[", i, "]"), std::string(status.message())});
    }
  }
}

grpc::ServerUnaryReactor* AccessServiceImpl::WhoAmI(grpc::CallbackServerContext* rpc,
                                                    const v1::WhoAmIRequest* request,
                                                    v1::WhoAmIResponse* response) {
  const Call call(context_, rpc, kService, "WhoAmI", *request);
  return ServeRead(call, context_->reads, response, [call]() -> absl::StatusOr<v1::WhoAmIResponse> {
    v1::WhoAmIResponse answer;
    const Identity& identity = call.identity();
    answer.mutable_token()->set_name(identity.name);
    answer.mutable_token()->set_role(identity.role);
    answer.mutable_token()->set_tenant(identity.tenant);
    answer.mutable_token()->set_worker(identity.worker);
    answer.set_tokens_required(call.context().guard->tokens_required());
    return answer;
  });
}

grpc::ServerUnaryReactor* AccessServiceImpl::CreateToken(grpc::CallbackServerContext* rpc,
                                                         const v1::CreateTokenRequest* request,
                                                         v1::CreateTokenResponse* response) {
  const Call call(context_, rpc, kService, "CreateToken", *request);
  return ServeRead(call, context_->reads, response,
                   [call, request]() -> absl::StatusOr<v1::CreateTokenResponse> {
                     const ServiceContext& context = call.context();
                     QD_ASSIGN_OR_RETURN(auto made, context.tokens->Create(
                                                        *request, call.identity(), context.now()));
                     LogInfo("access token made", {{"token", made.token().name()},
                                                   {"role", v1::Role_Name(made.token().role())},
                                                   {"tenant", made.token().tenant()},
                                                   {"by", call.identity().name}});
                     return made;
                   });
}

grpc::ServerUnaryReactor* AccessServiceImpl::ListTokens(grpc::CallbackServerContext* rpc,
                                                        const v1::ListTokensRequest* request,
                                                        v1::ListTokensResponse* response) {
  const Call call(context_, rpc, kService, "ListTokens", *request);
  return ServeRead(call, context_->reads, response,
                   [call]() -> absl::StatusOr<v1::ListTokensResponse> {
                     v1::ListTokensResponse listed;
                     for (v1::Token& token : call.context().tokens->List(call.identity())) {
                       *listed.add_tokens() = std::move(token);
                     }
                     return listed;
                   });
}

grpc::ServerUnaryReactor* AccessServiceImpl::RevokeToken(grpc::CallbackServerContext* rpc,
                                                         const v1::RevokeTokenRequest* request,
                                                         v1::Token* response) {
  const Call call(context_, rpc, kService, "RevokeToken", *request);
  return ServeRead(call, context_->reads, response, [call, request]() -> absl::StatusOr<v1::Token> {
    const ServiceContext& context = call.context();
    QD_ASSIGN_OR_RETURN(v1::Token token,
                        context.tokens->Revoke(request->name(), call.identity(), context.now()));
    LogInfo("access token revoked", {{"token", token.name()}, {"by", call.identity().name}});
    return token;
  });
}

grpc::ServerUnaryReactor* AccessServiceImpl::PutSecret(grpc::CallbackServerContext* rpc,
                                                       const v1::PutSecretRequest* request,
                                                       v1::Secret* response) {
  const Call call(context_, rpc, kService, "PutSecret", *request);
  return ServeRead(call, context_->reads, response, [call, request] {
    return call.context().secrets->Put(*request, call.context().now());
  });
}

grpc::ServerUnaryReactor* AccessServiceImpl::ListSecrets(grpc::CallbackServerContext* rpc,
                                                         const v1::ListSecretsRequest* request,
                                                         v1::ListSecretsResponse* response) {
  const Call call(context_, rpc, kService, "ListSecrets", *request);
  return ServeRead(call, context_->reads, response,
                   [call, request]() -> absl::StatusOr<v1::ListSecretsResponse> {
                     const auto tenant = ParseTenantName(request->parent());
                     if (!tenant.ok()) return FieldError("parent", tenant.status().message());
                     QD_ASSIGN_OR_RETURN(auto secrets, call.context().secrets->List(*tenant));
                     v1::ListSecretsResponse listed;
                     for (v1::Secret& secret : secrets) *listed.add_secrets() = std::move(secret);
                     return listed;
                   });
}

grpc::ServerUnaryReactor* AccessServiceImpl::DeleteSecret(grpc::CallbackServerContext* rpc,
                                                          const v1::DeleteSecretRequest* request,
                                                          v1::DeleteSecretResponse* response) {
  const Call call(context_, rpc, kService, "DeleteSecret", *request);
  return ServeRead(call, context_->reads, response,
                   [call, request]() -> absl::StatusOr<v1::DeleteSecretResponse> {
                     QD_RETURN_IF_ERROR(call.context().secrets->Delete(request->name()));
                     return v1::DeleteSecretResponse();
                   });
}

}  // namespace quantd
