# Two stages: build on the official Rust image, run on distroless (no shell, no package manager).
FROM rust:1-trixie AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/dcams-gateway && mkdir /lasting

FROM gcr.io/distroless/cc-debian13:nonroot
COPY --from=build /src/target/release/dcams-gateway /usr/local/bin/dcams-gateway
# It writes to one folder, `state` in the working directory: mount a volume that lasts there, and run
# the rest with `--read-only --cap-drop=ALL`.
COPY --from=build --chown=nonroot:nonroot /lasting /var/lib/dcams-gateway
WORKDIR /var/lib/dcams-gateway
VOLUME /var/lib/dcams-gateway
# Inside a container both listeners must be given: DCAMS_GATEWAY__SERVER__LISTEN=0.0.0.0:8080
# and, off loopback, DCAMS_GATEWAY__ADMIN__LISTEN with admin.token in the configuration.
USER nonroot:nonroot
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/dcams-gateway"]
CMD ["serve", "--config", "/etc/dcams-gateway"]
