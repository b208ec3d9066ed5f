//! `cc.v1.VpcService`. Refuses to know how a VPC is kept.

use std::sync::Arc;

use cc_common::api::fault::Fault;
use cc_common::api::v1::vpc_service_server::VpcService;
use cc_common::api::v1::{
    CreateVpcRequest, DeleteVpcsRequest, DeleteVpcsResponse, ListVpcsRequest, ListVpcsResponse, Vpc,
};
use tonic::{Request, Response, Status};

use crate::auth::{Caller, Role};
use crate::container::Containers;
use crate::vpc::{NewVpc, VpcRecord, Vpcs};

pub struct VpcApi {
    pub vpcs: Arc<Vpcs>,
    pub containers: Arc<Containers>,
}

#[tonic::async_trait]
impl VpcService for VpcApi {
    async fn create(&self, request: Request<CreateVpcRequest>) -> Result<Response<Vpc>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let CreateVpcRequest { name, cidr, cidr6, no_internet } = request.into_inner();
        let wanted = NewVpc { name, cidr, cidr6, internet: !no_internet };
        let record = self.vpcs.create(&caller.project, &wanted).await.map_err(Fault::from)?;
        Ok(Response::new(self.view(&record)))
    }

    async fn list(&self, request: Request<ListVpcsRequest>) -> Result<Response<ListVpcsResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Viewer)?;
        let mut records = self.vpcs.list(&caller.project).await.map_err(Fault::from)?;
        records.sort_by_key(|r| r.created_ms);
        Ok(Response::new(ListVpcsResponse { vpcs: records.iter().map(|r| self.view(r)).collect() }))
    }

    async fn delete(&self, request: Request<DeleteVpcsRequest>) -> Result<Response<DeleteVpcsResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.require(Role::Operator)?;
        let ids = request.into_inner().ids;
        let _allocation = self.containers.allocation().await;
        let users = |vpc| async move { self.containers.users_of(&vpc) };
        let deleted = self.vpcs.delete(&caller.project, &ids, users).await.map_err(Fault::from)?;
        Ok(Response::new(DeleteVpcsResponse { deleted: deleted.iter().map(ToString::to_string).collect() }))
    }
}

impl VpcApi {
    fn view(&self, record: &VpcRecord) -> Vpc {
        Vpc {
            id: record.id.to_string(),
            name: record.name.to_string(),
            cidr: record.cidr.to_string(),
            vni: record.vni,
            gateway: record.cidr.gateway().to_string(),
            containers: u32::try_from(self.containers.users_of(&record.id).len()).unwrap_or(u32::MAX),
            created_ms: record.created_ms,
            internet: record.internet,
            cidr6: record.cidr6.map(|cidr6| cidr6.to_string()).unwrap_or_default(),
            gateway6: record.cidr6.map(|cidr6| cidr6.gateway().to_string()).unwrap_or_default(),
        }
    }
}
