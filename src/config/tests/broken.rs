//! Configurations with one fault each: every one is named by its file and key, and by nothing else.

use super::*;

/// What is replaced in [`BASE`] (nothing: it is put before it), by what, and the expected key.
type Case = (&'static str, &'static str, &'static str);

const SECTIONS: &[Case] = &[
    ("", "[sever]", "sever"),
    ("", "server = 3", "server"),
    ("", "[server]\nlisten = \"localhost:8080\"", "server.listen"),
    ("", "[server]\nlisten = 8080", "server.listen"),
    (
        "",
        "[server]\npublic_urls = \"https://a.example\"",
        "server.public_urls",
    ),
    ("", "[server]\npublic_urls = [1]", "server.public_urls[0]"),
    (
        "",
        "[server]\npublic_urls = [\"http://a.example\"]",
        "server.public_urls[0]",
    ),
    (
        "",
        "[server]\npublic_urls = [\"https://a.example/v3\"]",
        "server.public_urls[0]",
    ),
    (
        "",
        "[server]\npublic_urls = [\"https://u:canary-literal@a.example\"]",
        "server.public_urls[0]",
    ),
    (
        "",
        "[server]\npublic_urls = [\"https://a.example\", \"https://A.example:443/\"]",
        "server.public_urls[1]",
    ),
    ("", "[server]\nprotocol = \"http2\"", "server.protocol"),
    ("", "[server]\nprotocol = 2", "server.protocol"),
    ("", "[server]\nchunked = true", "server.chunked"),
    (
        "",
        "[server]\nmax_connections = 0",
        "server.max_connections",
    ),
    (
        "",
        "[server]\nmax_connections = -5",
        "server.max_connections",
    ),
    (
        "",
        "[server]\nmax_connections = \"100\"",
        "server.max_connections",
    ),
    (
        "",
        "[server]\nmax_connections = 1.5",
        "server.max_connections",
    ),
    ("", "[server]\nheader_timeout = 10", "server.header_timeout"),
    (
        "",
        "[server]\nheader_timeout = \"0s\"",
        "server.header_timeout",
    ),
    (
        "",
        "[server]\nheader_timeout = \"10 s\"",
        "server.header_timeout",
    ),
    ("", "[server]\nidle_timeout = \"2h\"", "server.idle_timeout"),
    (
        "",
        "[server]\nmin_body_rate = \"0B\"",
        "server.min_body_rate",
    ),
    (
        "",
        "[server]\nmin_body_rate = \"1KiB/s\"",
        "server.min_body_rate",
    ),
    (
        "",
        "[server]\nmax_header_bytes = \"4KiB\"",
        "server.max_header_bytes",
    ),
    ("", "[server]\nmax_headers = 2000", "server.max_headers"),
    ("", "[server.tls]\ncert = \"x\"", "server.tls"),
    (
        "",
        "[server]\ntrusted_proxies = \"10.0.0.0/8\"",
        "server.trusted_proxies",
    ),
    (
        "",
        "[server]\ntrusted_proxies = [\"10.0.0.1/8\"]",
        "server.trusted_proxies[0]",
    ),
    (
        "",
        "[server]\ntrusted_proxies = [\"::1\", \"proxy.example\"]",
        "server.trusted_proxies[1]",
    ),
    (
        "",
        "[server]\ntrusted_proxies = [\"10.0.0.0/33\"]",
        "server.trusted_proxies[0]",
    ),
    (
        "",
        "[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"::ffff:10.0.0.0/104\"]",
        "server.trusted_proxies[1]",
    ),
    (
        "",
        "[server]\nforwarded_header = \"X-Real-IP\"",
        "server.forwarded_header",
    ),
    (
        "",
        "[server]\nproxy_protocol = \"optional\"",
        "server.proxy_protocol",
    ),
    (
        "",
        "[server]\nproxy_protocol = \"required\"",
        "server.proxy_protocol",
    ),
    ("", "[server.http2]\nwindow = 1", "server.http2.window"),
    (
        "",
        "[server.http2]\nstream_window = \"2GiB\"",
        "server.http2.stream_window",
    ),
    (
        "",
        "[server.http2]\nconnection_window = \"1KiB\"",
        "server.http2.connection_window",
    ),
    ("", "[admin]\nlisten = \"0.0.0.0:9090\"", "admin.token"),
    ("", "[admin]\nlisten = \"[::]:9090\"", "admin.token"),
    ("", "[admin]\nlisten = \"127.0.0.1:8080\"", "admin.listen"),
    ("", "[server]\nlisten = \"0.0.0.0:9090\"", "admin.listen"),
    ("", "[admin]\ntoken = \"canary-literal\"", "admin.token"),
    ("", "[admin]\ntoken = { file = \"user\" }", "admin.token"),
    ("", "[upstream]\nurl = \"dcams.app\"", "upstream.url"),
    (
        "",
        "[upstream]\nurl = \"http://dcams.app/x\"",
        "upstream.url",
    ),
    (
        "",
        "[upstream]\nurl = \"http://127.0.0.1.evil.example/x\"",
        "upstream.url",
    ),
    (
        "",
        "[upstream]\nurl = \"https://u:canary-literal@dcams.app/x\"",
        "upstream.url",
    ),
    (
        "",
        "[upstream]\nurl = \"https://dcams.app/x?canary-literal\"",
        "upstream.url",
    ),
    (
        "",
        "[upstream]\nurl = \"https://dcams.app/x#canary-literal\"",
        "upstream.url",
    ),
    (
        "",
        "[upstream]\nurl = \"ftp://dcams.app/x\"",
        "upstream.url",
    ),
    (
        "",
        "[upstream]\nconnect_timeout = \"1m\"",
        "upstream.connect_timeout",
    ),
    ("", "[upstream]\nca = \"none.pem\"", "upstream.ca"),
    ("", "[upstream]\nca = \"user\"", "upstream.ca"),
    ("", "[upstream]\nretries = 3", "upstream.retries"),
    (
        "",
        "[upstream]\nheader_timeout = \"1s\"",
        "upstream.header_timeout",
    ),
    ("", "[limits]\nmax_body = \"10mb\"", "limits.max_body"),
    (
        "",
        "[limits]\nmax_lookup_body = \"11MB\"",
        "limits.max_lookup_body",
    ),
    ("", "[limits]\nbody_memory = \"9MB\"", "limits.body_memory"),
    ("", "[limits]\nbody_wait = \"1m\"", "limits.body_wait"),
    (
        "",
        "[limits]\nmax_image_pixels = 0",
        "limits.max_image_pixels",
    ),
    (
        "",
        "[validation]\nrequired = [\"email\", \"mail\"]",
        "validation.required[1]",
    ),
    (
        "",
        "[validation]\nrequired = [\"email\", \"email\"]",
        "validation.required[1]",
    ),
    (
        "",
        "[validation]\nrequired = [\"fn\"]",
        "validation.required",
    ),
    (
        "",
        "[validation]\nrequired = \"email\"",
        "validation.required",
    ),
    ("", "[validation]\ncountry = \"us\"", "validation.country"),
    (
        "",
        "[validation]\ndata_uri = \"keep\"",
        "validation.data_uri",
    ),
    (
        "",
        "[validation]\nimage_types = [\"gif\"]",
        "validation.image_types[0]",
    ),
    (
        "",
        "[validation]\nimage_types = []",
        "validation.image_types",
    ),
    (
        "",
        "[telemetry]\nlog_level = \"verbose\"",
        "telemetry.log_level",
    ),
    (
        "",
        "[telemetry]\notlp_endpoint = \"x\"",
        "telemetry.otlp_endpoint",
    ),
    ("", "[cache]\nenabled = \"on\"", "cache.enabled"),
    ("", "[cache]\npass_ttl = \"25h\"", "cache.pass_ttl"),
    ("", "[cache]\npending_ttl = 2", "cache.pending_ttl"),
    ("", "[cache]\njitter = 0.6", "cache.jitter"),
    ("", "[cache]\njitter = 1", "cache.jitter"),
    ("", "[cache]\nmax_entries = 10", "cache.max_entries"),
    ("", "[cache]\nmax_bytes = \"1KiB\"", "cache.max_bytes"),
    ("", "[cache]\nnode_lag = \"1ms\"", "cache.node_lag"),
    (
        "",
        "[cache]\nuntold_writes = \"drop\"",
        "cache.untold_writes",
    ),
    ("", "[cache]\nshared = true", "cache.shared"),
    ("", "[cache]\nttl = \"1s\"", "cache.ttl"),
    (
        "services = [\"getStatus\"]",
        "services = [\"getStatus\"]\ncache = { no_cache = \"deny\" }",
        "tenants[acme].cache.no_cache",
    ),
    ("[state]", "[state]\nbackend = \"redis\"", "state.redis"),
    ("[state]", "[state]\nbackend = \"sqlite\"", "state.backend"),
    ("[state]", "[state]\npath = \"\"", "state.path"),
    ("[state]", "[state]\nredis = {}", "state.redis"),
    ("[audit]", "[audit]\npath = \"\"", "audit.path"),
    ("[audit]", "[audit]\npath = 1", "audit.path"),
    ("[audit]", "[audit]\nnode = \"gw 1\"", "audit.node"),
    ("[audit]", "[audit]\nnode = \"\"", "audit.node"),
    (
        "[audit]",
        "[audit]\ndurability = \"maybe\"",
        "audit.durability",
    ),
    (
        "[audit]",
        "[audit]\nsync_interval = \"2s\"",
        "audit.sync_interval",
    ),
    (
        "[audit]",
        "[audit]\nwrite_timeout = \"0s\"",
        "audit.write_timeout",
    ),
    (
        "[audit]",
        "[audit]\ncheckpoint_events = 0",
        "audit.checkpoint_events",
    ),
    (
        "[audit]",
        "[audit]\ncheckpoint_every = \"1ms\"",
        "audit.checkpoint_every",
    ),
    (
        "[audit]",
        "[audit]\nrotate_size = \"1KiB\"",
        "audit.rotate_size",
    ),
    (
        "[audit]",
        "[audit]\nrotate_every = \"1s\"",
        "audit.rotate_every",
    ),
    ("[audit]", "[audit]\nkeep = \"-1d\"", "audit.keep"),
    ("[audit]", "[audit]\nkeep_files = -1", "audit.keep_files"),
    (
        "[audit]",
        "[audit]\nrejected_rate = \"1001/s\"",
        "audit.rejected_rate",
    ),
    (
        "[audit]",
        "[audit]\nrejected_rate = 10",
        "audit.rejected_rate",
    ),
    ("[audit]", "[audit]\nreceipt = \"yes\"", "audit.receipt"),
    (
        "[audit]",
        "[audit]\nreceipt = true\ndurability = \"best_effort\"",
        "audit.receipt",
    ),
    (
        "[audit]",
        "[audit]\nimage_digests = \"sha256\"",
        "audit.image_digests",
    ),
    ("[audit]", "[audit]\nstdout = \"yes\"", "audit.stdout"),
    (
        "[audit]",
        "[audit]\nold_keys = \"canary-literal\"",
        "audit.old_keys",
    ),
    ("[audit]", "[audit]\nrotate = true", "audit.rotate"),
];

const SECRETS: &[Case] = &[
    ("key = { file = \"state-key\" }", "", "state.key"),
    ("key = { file = \"audit-key\" }", "", "audit.key"),
    (
        "{ file = \"state-key\" }",
        "\"canary-literal\"",
        "state.key",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"canary-literal\" }",
        "state.key.file",
    ),
    (
        "{ file = \"state-key\" }",
        "{ env = \"canary-literal\" }",
        "state.key.env",
    ),
    (
        "{ file = \"state-key\" }",
        "{ env = \"EMPTY\" }",
        "state.key.env",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"nothing\" }",
        "state.key.file",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"line-break\" }",
        "state.key.file",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"large\" }",
        "state.key.file",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \".\" }",
        "state.key.file",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"\" }",
        "state.key.file",
    ),
    ("{ file = \"state-key\" }", "{ file = 3 }", "state.key.file"),
    ("{ file = \"state-key\" }", "{}", "state.key.file"),
    (
        "{ file = \"state-key\" }",
        "{ file = \"state-key\", env = \"K\" }",
        "state.key.file",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"state-key\", path = \"k\" }",
        "state.key.path",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"user\" }",
        "state.key",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"flat\" }",
        "state.key",
    ),
    (
        "{ file = \"state-key\" }",
        "{ file = \"long-key\" }",
        "state.key",
    ),
    (
        "{ file = \"audit-key\" }",
        "{ file = \"state-key\" }",
        "audit.key",
    ),
    (
        "key = { file = \"audit-key\" }",
        "key = { file = \"audit-key\" }\nold_keys = [{ file = \"long-key\" }]",
        "audit.old_keys",
    ),
    (
        "{ file = \"pass\" }",
        "\"canary-literal\"",
        "accounts[main].credentials[c1].pass",
    ),
    (
        "{ file = \"pass\" }",
        "{ file = \"binary\" }",
        "accounts[main].credentials[c1].pass",
    ),
    (
        "{ file = \"pass\" }",
        "{ value = \"canary-literal\" }",
        "accounts[main].credentials[c1].pass.file",
    ),
];

const IDENTITY: &[Case] = &[
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"ref\"",
        "issuers[idp].bind[0].pointer",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\npointer = \"/reference\"",
        "issuers[idp].bind[0].claim",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"exp\"\npointer = \"/reference\"",
        "issuers[idp].bind[0].claim",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"ref\"\npointer = \"/canary\"",
        "issuers[idp].bind[0].pointer",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"ref\"\npointer = \"/target/documents/front\"",
        "issuers[idp].bind[0].pointer",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"ref\"\npointer = \"/reference\"\nservices = [\"getStatus\"]",
        "issuers[idp].bind[0].pointer",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"ref\"\npointer = \"/reference\"\nservices = []",
        "issuers[idp].bind[0].services",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"ref\"\npointer = \"/reference\"\nrequired = 1",
        "issuers[idp].bind[0].required",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\n[[issuers.bind]]\nclaim = \"ref\"\npointer = \"/reference\"\nrequierd = true",
        "issuers[idp].bind[0].requierd",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\nbind = 3",
        "issuers[idp].bind",
    ),
    ("", "\n[[revocations]]\n", "revocations[0].issuer"),
    (
        "",
        "\n[[revocations]]\nissuer = \"idp\"",
        "revocations[0].issuer",
    ),
    (
        "",
        "\n[[revocations]]\nissuer = \"canary\"\njti = \"x\"",
        "revocations[0].issuer",
    ),
    (
        "",
        "\n[[revocations]]\njti = \"x\"",
        "revocations[0].issuer",
    ),
    (
        "",
        "\n[[revocations]]\ntenant = \"canary\"",
        "revocations[0].tenant",
    ),
    (
        "",
        "\n[[revocations]]\nissuer = \"idp\"\njti = \"x\"\nkid = \"x\"",
        "revocations[0].kid",
    ),
    (
        "",
        "\n[[revocations]]\nissuer = \"idp\"\njti = \"\"",
        "revocations[0].jti",
    ),
    (
        "",
        "\n[[revocations]]\nissuer = \"idp\"\nsubject = 3",
        "revocations[0].subject",
    ),
    (
        "",
        "\n[[revocations]]\ntenant = \"acme\"\nissued_before = \"canary\"",
        "revocations[0].issued_before",
    ),
    (
        "",
        "\n[[revocations]]\ntenant = \"acme\"\nexpires = \"2030-01-01T00:00:00Z\"",
        "revocations[0].expires",
    ),
];

const ENTRIES: &[Case] = &[
    ("id = \"main\"", "id = \"ma in\"", "accounts[0].id"),
    ("id = \"main\"", "", "accounts[0].id"),
    ("id = \"main\"", "id = 3", "accounts[0].id"),
    (
        "id = \"main\"",
        "id = \"main\"\nuser = \"u\"",
        "accounts[main].user",
    ),
    (
        "credentials = [",
        "credentials = [ 3 ] # [",
        "accounts[main].credentials[0]",
    ),
    (
        "credentials = [",
        "credentials = [] # [",
        "accounts[main].credentials",
    ),
    (
        "credentials = [",
        "credentials = {} # [",
        "accounts[main].credentials",
    ),
    (
        "{ id = \"c1\",",
        "{ name = \"c1\",",
        "accounts[main].credentials[0].id",
    ),
    (
        "{ id = \"c1\",",
        "{ id = \"c1\", pas = 1,",
        "accounts[main].credentials[c1].pas",
    ),
    (
        "} }]",
        "} }, { id = \"c2\", user = { file = \"user\" }, pass = { file = \"pass\" } }]",
        "accounts[main].credentials[c2].user",
    ),
    (
        "} }]",
        "} }, { id = \"c1\", user = { file = \"user\" }, pass = { file = \"hmac\" } }]",
        "accounts[main].credentials[c1].id",
    ),
    (
        "{ id = \"c1\",",
        "{ id = \"c1\", not_before = \"2027-01-01T00:00:00Z\", not_after = \"2026-12-31T23:59:59Z\",",
        "accounts[main].credentials[c1].not_after",
    ),
    (
        "{ id = \"c1\",",
        "{ id = \"c1\", not_before = \"2027-01-01T00:00:00Z\", not_after = \"2027-01-01T00:00:00Z\",",
        "accounts[main].credentials[c1].not_after",
    ),
    (
        "{ id = \"c1\",",
        "{ id = \"c1\", not_after = \"canary-literal\",",
        "accounts[main].credentials[c1].not_after",
    ),
    (
        "{ id = \"c1\",",
        "{ id = \"c1\", not_before = 2027,",
        "accounts[main].credentials[c1].not_before",
    ),
    (
        "[[issuers]]",
        "[accounts.probe]\n[[issuers]]",
        "accounts[main].probe.email",
    ),
    (
        "[[issuers]]",
        "[accounts.probe]\nemail = \"canary-literal\"\n[[issuers]]",
        "accounts[main].probe.email",
    ),
    (
        "[[issuers]]",
        "[accounts.probe]\nemail = \"a@b.example\"\nservice = \"getStatus\"\n[[issuers]]",
        "accounts[main].probe.service",
    ),
    (
        "[[issuers]]",
        "[accounts.rotation]\ncanary_percent = 51\n[[issuers]]",
        "accounts[main].rotation.canary_percent",
    ),
    (
        "[[issuers]]",
        "[accounts.rotation]\ncanary_time = \"25h\"\n[[issuers]]",
        "accounts[main].rotation.canary_time",
    ),
    (
        "[[issuers]]",
        "[accounts.rotation]\nretry_after = \"0s\"\n[[issuers]]",
        "accounts[main].rotation.retry_after",
    ),
    (
        "[[issuers]]",
        "[accounts.rotation]\nretry_max = \"25h\"\n[[issuers]]",
        "accounts[main].rotation.retry_max",
    ),
    // Longer than the `retry_max` that holds where nothing is said, and the other way round.
    (
        "[[issuers]]",
        "[accounts.rotation]\nretry_after = \"901s\"\n[[issuers]]",
        "accounts[main].rotation.retry_after",
    ),
    (
        "[[issuers]]",
        "[accounts.rotation]\nretry_max = \"59s\"\n[[issuers]]",
        "accounts[main].rotation.retry_after",
    ),
    (
        "user = { file = \"user\" }, pass = { file = \"pass\" }",
        "vault = { path = \"veratad/main\" }",
        "accounts[main].credentials[c1].vault",
    ),
    (
        "issuer = \"https://idp.example/\"",
        "",
        "issuers[idp].issuer",
    ),
    (
        "issuer = \"https://idp.example/\"",
        "issuer = \"\"",
        "issuers[idp].issuer",
    ),
    ("audiences = [\"gw\"]", "", "issuers[idp].audiences"),
    (
        "audiences = [\"gw\"]",
        "audiences = []",
        "issuers[idp].audiences",
    ),
    (
        "audiences = [\"gw\"]",
        "audiences = [\"a\", 1]",
        "issuers[idp].audiences[1]",
    ),
    ("[\"HS256\"]", "[\"none\"]", "issuers[idp].algorithms[0]"),
    ("[\"HS256\"]", "[]", "issuers[idp].algorithms"),
    (
        "[\"HS256\"]",
        "[\"HS256\", \"RS256\"]",
        "issuers[idp].algorithms",
    ),
    ("[\"HS256\"]", "[\"ES256\"]", "issuers[idp].secret"),
    ("secret = { file = \"hmac\" }", "", "issuers[idp].jwks_url"),
    (
        "secret = { file = \"hmac\" }",
        "issuer_discovery = false",
        "issuers[idp].jwks_url",
    ),
    (
        "secret = { file = \"hmac\" }",
        "jwks_url = \"https://x/\"",
        "issuers[idp].jwks_url",
    ),
    (
        "secret = { file = \"hmac\" }",
        "issuer_discovery = true",
        "issuers[idp].issuer_discovery",
    ),
    (
        "secret = { file = \"hmac\" }",
        "secret = \"canary-literal\"",
        "issuers[idp].secret",
    ),
    (
        "secret = { file = \"hmac\" }",
        "secret = { file = \"user\" }",
        "issuers[idp].secret",
    ),
    (
        "secret = { file = \"hmac\" }",
        "public_key = \"user\"",
        "issuers[idp].public_key",
    ),
    (
        "secret = { file = \"hmac\" }",
        "secret = { file = \"hmac\" }\npublic_key = \"user\"",
        "issuers[idp].secret",
    ),
    (
        "secret = { file = \"hmac\" }",
        "secret = { file = \"hmac\" }\nprivate_key = { file = \"user\" }",
        "issuers[idp].private_key",
    ),
    (
        "[\"HS256\"]\nsecret = { file = \"hmac\" }",
        "[\"ES256\"]\npublic_key = \"user\"",
        "issuers[idp].public_key",
    ),
    (
        "[\"HS256\"]\nsecret = { file = \"hmac\" }",
        "[\"ES256\"]\npublic_key = \"none\"",
        "issuers[idp].public_key",
    ),
    (
        "[\"HS256\"]\nsecret = { file = \"hmac\" }",
        "[\"ES256\"]\npublic_key = \"nothing\"",
        "issuers[idp].public_key",
    ),
    (
        "[\"HS256\"]\nsecret = { file = \"hmac\" }",
        "[\"ES256\"]\njwks_file = \"user\"",
        "issuers[idp].jwks_file",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = []",
        "issuers[idp].tenants",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acne\"]",
        "issuers[idp].tenants[0]",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\nrequire_dpop = 1",
        "issuers[idp].require_dpop",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\nrequire_dpop = true",
        "server.public_urls",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ndpop_max_age = \"301s\"",
        "issuers[idp].dpop_max_age",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ndpop_max_age = \"500ms\"",
        "issuers[idp].dpop_max_age",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ndpop_nonce = \"true\"",
        "issuers[idp].dpop_nonce",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ntenant_claim = \"cnf\"",
        "issuers[idp].tenant_claim",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\nleeway = \"121s\"",
        "issuers[idp].leeway",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\nmax_ttl = \"0s\"",
        "issuers[idp].max_ttl",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ntypes = []",
        "issuers[idp].types",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ntenant_claim = \"iss\"",
        "issuers[idp].tenant_claim",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ncustomer_claim = \"tenant\"",
        "issuers[idp].customer_claim",
    ),
    (
        "tenants = [\"acme\"]",
        "tenants = [\"acme\"]\ncustomer_services = [\"getstatus\"]",
        "issuers[idp].customer_services[0]",
    ),
    (
        "account = \"main\"",
        "account = \"other\"",
        "tenants[acme].account",
    ),
    ("account = \"main\"", "", "tenants[acme].account"),
    (
        "account = \"main\"",
        "account = \"main\"\nenabled = \"yes\"",
        "tenants[acme].enabled",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\nresponse = \"all\"",
        "tenants[acme].response",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\ncountry = \"DE\"",
        "tenants[acme].country",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\nallow = []",
        "tenants[acme].allow",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\nallow = [\"192.0.2.1/24\"]",
        "tenants[acme].allow[0]",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\ndeny = [\"192.0.2\"]",
        "tenants[acme].deny[0]",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\nisolation = \"quota\"",
        "tenants[acme].isolation",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\nunowned = \"claim\"",
        "tenants[acme].unowned",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\nisolation = \"ledger\"\nunowned = \"ask\"",
        "tenants[acme].unowned",
    ),
    (
        "id = \"main\"",
        "id = \"main\"\nemail_case = \"lower\"",
        "accounts[main].email_case",
    ),
    (
        "account = \"main\"",
        "account = \"main\"\ncors = {}",
        "tenants[acme].cors",
    ),
    ("[\"getStatus\"]", "[]", "tenants[acme].services"),
    (
        "[\"getStatus\"]",
        "[\"getStatus\", \"deleteCustomer\"]",
        "tenants[acme].services[1]",
    ),
    (
        "[\"getStatus\"]",
        "[\"getStatus\", \"getStatus\"]",
        "tenants[acme].services[1]",
    ),
];

#[test]
fn every_fault_is_named_by_file_and_key_and_causes_no_other() {
    for (from, to, key) in [SECTIONS, SECRETS, IDENTITY, ENTRIES].into_iter().flatten() {
        let mut folder = Folder::new();
        folder.set("EMPTY", "");
        folder.write("nothing", "");
        folder.write("line-break", "\n");
        folder.write("large", "canary-hmac".repeat(6_000));
        folder.write("binary", b"canary-pass\xff");
        folder.write("flat", STANDARD.encode([5; 32]));
        folder.write("long-key", STANDARD.encode([6; 33]));
        assert!(BASE.contains(from), "{from}");
        let text = if from.is_empty() {
            format!("{to}\n{BASE}")
        } else {
            BASE.replacen(from, to, 1)
        };
        folder.write("gateway.toml", text);
        let found = folder.mistakes(&["gateway.toml"]);
        // A credential without its id also has the unknown key that stands in its place.
        let found: Vec<_> = found
            .into_iter()
            .filter(|(_, key)| !key.ends_with("[0].name") && !key.ends_with(".pass.value"))
            .collect();
        assert_eq!(found, pairs(&[("gateway.toml", key)]), "{from} -> {to}");
    }
}

#[test]
fn lists_without_entries_or_of_the_wrong_kind_are_named() {
    for (text, key) in [
        ("tenants = 3", "tenants"),
        ("[tenants]\nid = \"acme\"", "tenants"),
        ("tenants = [3]", "tenants[0]"),
    ] {
        let folder = Folder::new();
        let rest = between("[state]", Some("[[tenants]]"));
        let (before, after) = if text.starts_with('[') {
            ("", text)
        } else {
            (text, "")
        };
        folder.write("gateway.toml", format!("{before}\n{rest}\n{after}"));
        let found = folder.mistakes(&["gateway.toml"]);
        assert!(
            found.contains(&("gateway.toml".to_owned(), key.to_owned())),
            "{found:?}"
        );
    }
}

#[test]
fn two_tenants_never_reach_the_same_customers() {
    let folder = Folder::new();
    let second = "[[tenants]]\nid = \"beta\"\naccount = \"main\"\nservices = [\"getStatus\"]\n";
    folder.write("gateway.toml", format!("{BASE}{second}"));
    let expected = pairs(&[("gateway.toml", "tenants[beta].account")]);
    assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
    let error = folder.load(&["gateway.toml"]).unwrap_err().to_string();
    assert!(error.contains("tenants[acme]"), "{error}");
    assert!(error.contains("isolation = \"ledger\""), "{error}");
    let copied = "[[accounts]]\nid = \"copy\"\ncredentials = \
                  [{ id = \"c9\", user = { file = \"user\" }, pass = { file = \"pass\" } }]\n";
    let second = second.replace("main", "copy");
    // With the same password, and with another one.
    for pass in ["pass", "hmac"] {
        let copied = copied.replace("\"pass\"", &format!("{pass:?}"));
        folder.write("gateway.toml", format!("{BASE}{copied}{second}"));
        let expected = pairs(&[("gateway.toml", "accounts[copy].credentials[c9].user")]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
    }
}

#[test]
fn tenants_share_an_account_only_where_each_of_them_has_a_ledger() {
    let text = |with_ledger: &[bool]| {
        let tenants = with_ledger.iter().enumerate().map(|(index, ledger)| {
            let isolation = if *ledger { "ledger" } else { "none" };
            format!(
                "[[tenants]]\nid = \"t{index}\"\naccount = \"main\"\n\
                 services = [\"getStatus\"]\nisolation = \"{isolation}\"\n"
            )
        });
        let rest = between("[state]", Some("[[tenants]]"));
        rest.replace("\"acme\"", "\"t0\"") + &tenants.collect::<String>()
    };
    let folder = Folder::new();
    for tenants in [&[true][..], &[true; 2], &[true; 3]] {
        folder.write("gateway.toml", text(tenants));
        let config = folder.load(&["gateway.toml"]).unwrap();
        let ledger = Isolation::Ledger(Unowned::Refuse);
        assert!(config.tenants.iter().all(|t| t.isolation == ledger));
    }
    for (tenants, named) in [
        (&[true, false][..], &["tenants[t1].account"][..]),
        (&[false, true], &["tenants[t1].account"]),
        (&[true, true, false], &["tenants[t2].account"]),
        (&[true, false, true], &["tenants[t1].account"]),
        (
            &[false, true, true],
            &["tenants[t1].account", "tenants[t2].account"],
        ),
    ] {
        folder.write("gateway.toml", text(tenants));
        let expected: Vec<_> = named.iter().map(|key| ("gateway.toml", *key)).collect();
        assert_eq!(folder.mistakes(&["gateway.toml"]), pairs(&expected));
    }
}

#[test]
fn two_issuers_never_share_an_iss() {
    let folder = Folder::new();
    let second = between("[[issuers]]", Some("[[tenants]]")).replace("\"idp\"", "\"idp2\"");
    folder.write("gateway.toml", format!("{BASE}{second}"));
    let expected = pairs(&[("gateway.toml", "issuers[idp2].issuer")]);
    assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
}

#[test]
fn the_upstream_may_be_plain_on_loopback_alone() {
    for url in [
        "http://127.0.0.1:9/x",
        "http://127.1.2.3/x",
        "http://[::1]:9/x",
        "http://localhost:9/x",
        "https://dcams.app",
    ] {
        let folder = Folder::new();
        assert!(
            folder
                .load_with(&format!("[upstream]\nurl = \"{url}\""))
                .is_ok(),
            "{url}"
        );
    }
}

#[test]
fn weak_and_wrong_keys_are_refused() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let set = jwks(&pair);
    let hmac = "secret = { file = \"k\" }";
    let public = "public_key = \"k\"";
    let jwks = "jwks_file = \"k\"";
    for (algorithm, kind, content) in [
        ("HS256", hmac, "canary-hmac-of-31-bytes........".to_owned()),
        ("HS384", hmac, "c".repeat(47)),
        ("HS512", hmac, "c".repeat(63)),
        ("HS256", hmac, pair.public_key_pem()),
        ("RS256", public, pair.public_key_pem()),
        ("ES384", public, pair.public_key_pem()),
        ("ES256", public, pair.serialize_pem()),
        ("ES256", public, "canary-hmac".to_owned()),
        ("ES256", jwks, "{}".to_owned()),
        ("ES256", jwks, "canary-hmac".to_owned()),
        ("ES256", jwks, set.replace("\"sig\"", "\"enc\"")),
        ("ES256", jwks, set.replace("P-256", "P-384")),
        (
            "ES256",
            jwks,
            set.replace("\"kty\":\"EC\"", "\"kty\":\"oct\",\"k\":\"canary-hmac\""),
        ),
        ("RS256", jwks, set.clone()),
    ] {
        let folder = Folder::new();
        folder.write("k", content);
        let text = BASE
            .replace("HS256", algorithm)
            .replace("secret = { file = \"hmac\" }", kind);
        folder.write("gateway.toml", text);
        let (key, _) = kind.split_once(' ').unwrap();
        let expected = format!("issuers[idp].{key}");
        let found = folder.mistakes(&["gateway.toml"]);
        assert_eq!(
            found,
            pairs(&[("gateway.toml", &expected)]),
            "{algorithm} {kind}"
        );
    }
}

#[test]
fn a_private_key_must_sign_with_the_issuers_algorithm() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    for wrong in [pair.public_key_pem(), "canary-hmac".to_owned()] {
        let folder = Folder::new();
        folder.write("public.pem", pair.public_key_pem());
        folder.write("wrong.pem", wrong);
        let keys = "public_key = \"public.pem\"\nprivate_key = { file = \"wrong.pem\" }";
        let text = BASE
            .replace("HS256", "ES256")
            .replace("secret = { file = \"hmac\" }", keys);
        folder.write("gateway.toml", text);
        let expected = pairs(&[("gateway.toml", "issuers[idp].private_key")]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
    }
}
