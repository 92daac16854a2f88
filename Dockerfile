# syntax=docker/dockerfile:1
# Two stages: the toolchain builds, the image holds the program, its configuration and nothing to log in with.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# What is built, for the metric build_info and the label.
ARG REVISION=unknown
ENV RETENTIOND_REVISION=$REVISION
# The caches keep crates and compiled dependencies from build to build; what leaves this stage is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked && cp target/release/retentiond /retentiond

# Debian 12 with glibc, libgcc and the root certificates; no shell, no package manager, user 65532 (nonroot).
FROM gcr.io/distroless/cc-debian12:nonroot
ARG REVISION=unknown
LABEL org.opencontainers.image.title="retentiond" \
      org.opencontainers.image.description="Deletes what was promised to be deleted, at its instant, and leaves proof" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
COPY --from=build /retentiond /usr/local/bin/retentiond
COPY config/retentiond.toml /etc/retentiond/retentiond.toml
ENV RETENTIOND_CONFIG=/etc/retentiond/retentiond.toml
USER 65532:65532
# Health and metrics; API and pages. Both listen on loopback until they are told otherwise.
EXPOSE 9464 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/retentiond", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/retentiond"]
CMD ["run"]
