//! Containers, from spec to gone. Refuses to know map names, image formats and gRPC.
