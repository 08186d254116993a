//! Authentication, as an etcd answers on which it is disabled. Enabling it and
//! making users and roles is not built: it says so, rather than store what it
//! would not enforce.

use crate::door::Door;
use crate::error;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::auth_server::Auth;
use tonic::{Code, Request, Response, Status};

fn not_built<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "etcdserver: authentication is not built in Synod yet: users, roles and auth enable are \
         refused rather than kept without being enforced",
    ))
}

fn missing<T>(what: &str) -> Result<Response<T>, Status> {
    Err(Status::new(Code::FailedPrecondition, format!("etcdserver: {what} name not found")))
}

macro_rules! refused {
    ($($name:ident: $request:ident => $response:ident;)*) => {
        #[tonic::async_trait]
        impl Auth for Door {
            $(async fn $name(
                &self,
                _: Request<pb::$request>,
            ) -> Result<Response<pb::$response>, Status> {
                not_built()
            })*

            async fn auth_disable(
                &self,
                _: Request<pb::AuthDisableRequest>,
            ) -> Result<Response<pb::AuthDisableResponse>, Status> {
                // It is disabled already, and stays so.
                Ok(Response::new(pb::AuthDisableResponse { header: Some(self.header_now()) }))
            }

            async fn auth_status(
                &self,
                _: Request<pb::AuthStatusRequest>,
            ) -> Result<Response<pb::AuthStatusResponse>, Status> {
                let header = Some(self.header_now());
                Ok(Response::new(pb::AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
            }

            async fn authenticate(
                &self,
                _: Request<pb::AuthenticateRequest>,
            ) -> Result<Response<pb::AuthenticateResponse>, Status> {
                Err(error::auth_not_enabled())
            }

            async fn user_get(
                &self,
                _: Request<pb::AuthUserGetRequest>,
            ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
                missing("user")
            }

            async fn user_list(
                &self,
                _: Request<pb::AuthUserListRequest>,
            ) -> Result<Response<pb::AuthUserListResponse>, Status> {
                let header = Some(self.header_now());
                Ok(Response::new(pb::AuthUserListResponse { header, users: Vec::new() }))
            }

            async fn role_get(
                &self,
                _: Request<pb::AuthRoleGetRequest>,
            ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
                missing("role")
            }

            async fn role_list(
                &self,
                _: Request<pb::AuthRoleListRequest>,
            ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
                let header = Some(self.header_now());
                Ok(Response::new(pb::AuthRoleListResponse { header, roles: Vec::new() }))
            }
        }
    };
}

refused! {
    auth_enable: AuthEnableRequest => AuthEnableResponse;
    user_add: AuthUserAddRequest => AuthUserAddResponse;
    user_delete: AuthUserDeleteRequest => AuthUserDeleteResponse;
    user_change_password: AuthUserChangePasswordRequest => AuthUserChangePasswordResponse;
    user_grant_role: AuthUserGrantRoleRequest => AuthUserGrantRoleResponse;
    user_revoke_role: AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse;
    role_add: AuthRoleAddRequest => AuthRoleAddResponse;
    role_delete: AuthRoleDeleteRequest => AuthRoleDeleteResponse;
    role_grant_permission: AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse;
    role_revoke_permission: AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse;
}
