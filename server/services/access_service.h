// AccessService over the token book and the secret keeper: writes wait for the store on a pool.
#pragma once

#include "proto/quantd/v1/access.grpc.pb.h"
#include "server/services/context.h"

namespace quantd {

class AccessServiceImpl final : public v1::AccessService::CallbackService {
 public:
  explicit AccessServiceImpl(const ServiceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* WhoAmI(grpc::CallbackServerContext* rpc,
                                   const v1::WhoAmIRequest* request,
                                   v1::WhoAmIResponse* response) override;
  grpc::ServerUnaryReactor* CreateToken(grpc::CallbackServerContext* rpc,
                                        const v1::CreateTokenRequest* request,
                                        v1::CreateTokenResponse* response) override;
  grpc::ServerUnaryReactor* ListTokens(grpc::CallbackServerContext* rpc,
                                       const v1::ListTokensRequest* request,
                                       v1::ListTokensResponse* response) override;
  grpc::ServerUnaryReactor* RevokeToken(grpc::CallbackServerContext* rpc,
                                        const v1::RevokeTokenRequest* request,
                                        v1::Token* response) override;
  grpc::ServerUnaryReactor* PutSecret(grpc::CallbackServerContext* rpc,
                                      const v1::PutSecretRequest* request,
                                      v1::Secret* response) override;
  grpc::ServerUnaryReactor* ListSecrets(grpc::CallbackServerContext* rpc,
                                        const v1::ListSecretsRequest* request,
                                        v1::ListSecretsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSecret(grpc::CallbackServerContext* rpc,
                                         const v1::DeleteSecretRequest* request,
                                         v1::DeleteSecretResponse* response) override;

 private:
  const ServiceContext* const context_;
};

}  // namespace quantd
