//! The calls of File.

use super::{Look, node_path, path};
use crate::door::Door;
use std::pin::Pin;
use synod_coord::file::{Cached, Object};
use synod_coord::holders;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::file_server::File;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Messages that wait for a client that is slow.
const STREAM_MESSAGES: usize = 16;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Door {
    async fn get_file(&self, r: v1::FileGetRequest) -> Result<v1::FileGetResponse, Status> {
        let path = node_path(&r.path)?;
        let object = Object::contents(path.clone());
        let Look { seen, registered, header } = self.look_at(&object, r.cache_for).await?;
        let Cached::Node(node) = seen else { return Err(Status::internal("no node was read")) };
        let mut node = node.map(|n| v1::FileNode {
            contents: n.contents,
            instance: n.instance,
            generation: n.generation,
            lock_generation: 0,
            acl_generation: n.acl_generation,
            checksum: n.checksum,
            writes: n.writes,
            session: n.session,
        });
        if let Some(node) = node.as_mut().filter(|_| r.lock) {
            let (queue, _) = self.queue(path.as_str().as_bytes()).await?;
            node.lock_generation = holders(&queue).next().map_or(0, |c| c.kv.create_revision);
        }
        Ok(v1::FileGetResponse { header: Some(header), node, registered })
    }

    async fn list_files(&self, r: v1::FileListRequest) -> Result<v1::FileListResponse, Status> {
        let object = Object::children(path(&r.path)?);
        let Look { seen, registered, header } = self.look_at(&object, r.cache_for).await?;
        let Cached::Children(all) = seen else {
            return Err(Status::internal("no names were read"));
        };
        let child = |c: synod_coord::file::Child| v1::FileChild {
            name: c.name,
            instance: c.instance,
            session: c.session,
        };
        let children = all.into_iter().map(child).collect();
        Ok(v1::FileListResponse { header: Some(header), children, registered })
    }
}

#[tonic::async_trait]
impl File for Door {
    async fn get(
        &self,
        request: Request<v1::FileGetRequest>,
    ) -> Result<Response<v1::FileGetResponse>, Status> {
        self.get_file(request.into_inner()).await.map(Response::new)
    }

    async fn set(
        &self,
        request: Request<v1::FileSetRequest>,
    ) -> Result<Response<v1::FileSetResponse>, Status> {
        self.set_file(request.into_inner()).await.map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<v1::FileDeleteRequest>,
    ) -> Result<Response<v1::FileDeleteResponse>, Status> {
        self.delete_file(request.into_inner()).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<v1::FileListRequest>,
    ) -> Result<Response<v1::FileListResponse>, Status> {
        self.list_files(request.into_inner()).await.map(Response::new)
    }

    type EventsStream = Answers<v1::FileEvent>;

    async fn events(
        &self,
        request: Request<v1::FileEventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (door, path) = (self.clone(), request.into_inner().path);
        node_path(&path)?;
        let (tx, rx) = tokio::sync::mpsc::channel(STREAM_MESSAGES);
        tokio::spawn(async move {
            if let Err(status) = door.tell_events(&path, &tx).await {
                let _ = tx.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    type InvalidationsStream = Answers<v1::FileInvalidation>;

    async fn invalidations(
        &self,
        request: Request<v1::FileInvalidationsRequest>,
    ) -> Result<Response<Self::InvalidationsStream>, Status> {
        let (door, session) = (self.clone(), request.into_inner().session);
        let (tx, rx) = tokio::sync::mpsc::channel(STREAM_MESSAGES);
        tokio::spawn(async move {
            if let Err(status) = door.tell_invalidations(session, &tx).await {
                let _ = tx.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn release(
        &self,
        request: Request<v1::FileReleaseRequest>,
    ) -> Result<Response<v1::FileReleaseResponse>, Status> {
        self.release_files(request.into_inner()).await.map(Response::new)
    }
}
