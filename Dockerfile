# Two stages: build on the official Rust image, run on distroless (no shell, no package manager).
FROM rust:1-trixie AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/dcams-gateway

FROM gcr.io/distroless/cc-debian13:nonroot
COPY --from=build /src/target/release/dcams-gateway /usr/local/bin/dcams-gateway
# It writes nothing to disk: run it with `--read-only --cap-drop=ALL`.
# Inside a container both listeners must be given: DCAMS_GATEWAY__SERVER__LISTEN=0.0.0.0:8080
# and, off loopback, DCAMS_GATEWAY__ADMIN__LISTEN with admin.token in the configuration.
USER nonroot:nonroot
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/dcams-gateway"]
CMD ["serve", "--config", "/etc/dcams-gateway"]
