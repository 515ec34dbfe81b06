//! What tenants may use: what is read of it, and what each mistake says.

use std::{num::NonZeroU32, sync::Arc};

use jiff::tz::TimeZone;

use super::*;
use crate::limits::{Billing, LARGEST, Limits, Rate, SubjectLimits, calendar::Calendar};

/// [`BASE`], whose last entry is the tenant, with this behind it.
fn of_tenant(addition: &str) -> String {
    format!("{BASE}\n{addition}")
}

fn limits(addition: &str) -> Limits {
    let folder = Folder::new();
    folder.write("gateway.toml", of_tenant(addition));
    let config = folder.load(&["gateway.toml"]).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    Limits::clone(&config.tenants[0].limits)
}

fn rate(count: u32, seconds: u64, burst: u32) -> Rate {
    Rate {
        count: NonZeroU32::new(count).unwrap(),
        period: Duration::from_secs(seconds),
        burst: NonZeroU32::new(burst).unwrap(),
    }
}

#[test]
fn a_tenant_without_a_quota_is_not_limited() {
    let unlimited = Limits {
        rate: None,
        concurrency: None,
        daily: None,
        bytes_daily: None,
        monthly: None,
        per_subject: SubjectLimits::default(),
        warn_at: 80,
        calendar: Arc::new(Calendar::new(TimeZone::UTC, 1)),
    };
    assert_eq!(limits(""), unlimited);
    let shown = "[tenants.quota]\ntime_zone = \"UTC\"\nbilling_day = 1\nwarn_at = 0.8\n";
    for line in shown.lines().skip(1) {
        assert!(layers::DEFAULTS.contains(&format!("# {line}\n")), "{line}");
    }
    assert_eq!(limits(shown), unlimited);
}

#[test]
fn every_limit_is_read() {
    let quota = "[tenants.quota]\nrate = \"600/m\"\nburst = 40\nconcurrency = 50\ndaily = 10_000\n\
                 monthly = 200_000\nbytes_daily = \"5GB\"\ntime_zone = \"America/New_York\"\n\
                 billing_day = 31\nwarn_at = 0.95\n\
                 [tenants.per_subject]\nrate = \"30/h\"\nburst = 5\ndaily = 100\n";
    let expected = Limits {
        rate: Some(rate(600, 60, 40)),
        concurrency: NonZeroU32::new(50),
        daily: Some(10_000),
        bytes_daily: Some(5_000_000_000),
        monthly: Some(200_000),
        per_subject: SubjectLimits {
            rate: Some(rate(30, 3_600, 5)),
            daily: Some(100),
        },
        warn_at: 95,
        calendar: Arc::new(Calendar::new(
            TimeZone::get("America/New_York").unwrap(),
            31,
        )),
    };
    assert_eq!(limits(quota), expected);
    let largest = format!(
        "[tenants.quota]\nrate = \"1000000/h\"\nburst = 1000000\nconcurrency = 1000000\n\
         daily = {LARGEST}\nmonthly = {LARGEST}\nbytes_daily = {LARGEST}\nwarn_at = 1.0\n"
    );
    let largest = limits(&largest);
    assert_eq!(largest.rate, Some(rate(1_000_000, 3_600, 1_000_000)));
    assert_eq!((largest.daily, largest.warn_at), (Some(LARGEST), 100));
    assert_eq!(limits("[tenants.quota]\nwarn_at = 0.01").warn_at, 1);
}

#[test]
fn a_burst_that_is_left_out_is_what_comes_in_a_second() {
    for (text, expected) in [
        ("20/s", rate(20, 1, 20)),
        ("1/s", rate(1, 1, 1)),
        ("600/m", rate(600, 60, 10)),
        ("119/m", rate(119, 60, 1)),
        ("59/m", rate(59, 60, 1)),
        ("1/h", rate(1, 3_600, 1)),
        ("1000000/h", rate(1_000_000, 3_600, 277)),
    ] {
        let text =
            format!("[tenants.quota]\nrate = \"{text}\"\n[tenants.per_subject]\nrate = \"{text}\"");
        let limits = limits(&text);
        assert_eq!(limits.rate, Some(expected), "{text}");
        assert_eq!(limits.per_subject.rate, Some(expected), "{text}");
    }
}

#[test]
fn the_tariff_has_the_shown_defaults_and_each_part_can_be_set() {
    let tariff = |toml: &str| Folder::new().load_with(toml).unwrap().tariff;
    let default = tariff("");
    assert_eq!(default.cost, [1; 4]);
    assert_eq!(
        (default.refused, default.unknown, default.unavailable),
        (Billing::Keep, Billing::Keep, Billing::Refund)
    );
    assert_eq!(default.max_subjects, 100_000);
    let other = tariff(
        "[quota]\nmax_subjects = 1_000\n[quota.cost]\ncreateOrUpdateCustomer = 1_000_000\n\
         getStatus = 0\ngetDocumentImages = 3\n[quota.charge]\nrefused = \"refund\"\n\
         unknown = \"refund\"\nunavailable = \"keep\"",
    );
    let costs = Operation::ALL.map(|operation| other.cost(operation));
    let named = [
        (Operation::CreateOrUpdateCustomer, 1_000_000),
        (Operation::GetStatus, 0),
        (Operation::GetDocumentImages, 3),
        (Operation::UpdateStatus, 1),
    ];
    assert_eq!(
        named.map(|(operation, _)| other.cost(operation)),
        named.map(|(_, c)| c)
    );
    assert_eq!(costs.iter().sum::<u64>(), 1_000_004);
    assert_eq!(
        (other.refused, other.unknown, other.unavailable),
        (Billing::Refund, Billing::Refund, Billing::Keep)
    );
    assert_eq!(other.max_subjects, 1_000);
}

#[test]
fn a_variable_sets_the_cost_of_a_service_though_it_has_no_capitals() {
    let mut folder = Folder::new();
    folder.set("DCAMS_GATEWAY__QUOTA__COST__GETDOCUMENTIMAGES", "7");
    folder.set("dcams_gateway__quota__charge__unknown", "refund");
    let tariff = folder.load_with("").unwrap().tariff;
    assert_eq!(tariff.cost(Operation::GetDocumentImages), 7);
    assert_eq!(tariff.unknown, Billing::Refund);
    folder.set("DCAMS_GATEWAY__QUOTA__COST__GETIMAGES", "7");
    let found = folder.mistakes(&["gateway.toml"]);
    let variable = "environment variable DCAMS_GATEWAY__QUOTA__COST__GETIMAGES";
    assert_eq!(found, pairs(&[(variable, "quota.cost.getimages")]));
}

#[test]
fn tenants_with_equal_limits_share_them() {
    let folder = Folder::new();
    let tenant = |id: &str, daily: u32, zone: &str| {
        format!(
            "[[tenants]]\nid = \"{id}\"\naccount = \"main\"\nservices = [\"getStatus\"]\n\
             isolation = \"ledger\"\n[tenants.quota]\ndaily = {daily}\ntime_zone = \"{zone}\"\n"
        )
    };
    let rest = between("[state]", Some("[[tenants]]"));
    let zone = "Europe/Berlin";
    let tenants = [
        tenant("acme", 5, zone),
        tenant("b", 5, zone),
        tenant("c", 6, zone),
        tenant("d", 5, "UTC"),
    ];
    folder.write("gateway.toml", format!("{rest}{}", tenants.concat()));
    let config = folder.load(&["gateway.toml"]).unwrap();
    let [a, b, c, d] = config.tenants.as_slice() else {
        panic!("four tenants")
    };
    assert!(Arc::ptr_eq(&a.limits, &b.limits));
    assert!(a.limits != c.limits && a.limits != d.limits);
    assert!(Arc::ptr_eq(&a.limits.calendar, &c.limits.calendar));
}

#[test]
fn a_name_is_in_memory_once_whoever_names_it() {
    let folder = Folder::new();
    let text = BASE.replace(
        "account = \"main\"",
        "account = \"main\"\nisolation = \"ledger\"",
    );
    let text = text.replace("tenants = [\"acme\"]", "tenants = [\"acme\", \"beta\"]");
    let second = between("[[tenants]]", None).replace("acme", "beta");
    let second = second.replace("\"main\"", "\"main\"\nisolation = \"ledger\"");
    folder.write("gateway.toml", text + &second);
    let config = folder.load(&["gateway.toml"]).unwrap();
    let accounts = config.tenants.iter().map(|tenant| tenant.account.as_str());
    let accounts: BTreeSet<_> = accounts.map(str::as_ptr).collect();
    assert_eq!(accounts.len(), 1);
    for (named, tenant) in config.issuers[0].tenants.iter().zip(&config.tenants) {
        assert_eq!(named.as_str().as_ptr(), tenant.id.as_str().as_ptr());
    }
}

#[test]
fn limits_that_contradict_each_other_are_warned_about() {
    for (quota, key, part) in [
        ("daily = 10\nmonthly = 9", "monthly", "lower than `daily`"),
        (
            "bytes_daily = \"9999KB\"",
            "bytes_daily",
            "`limits.max_body`",
        ),
        (
            "daily = 2\n[quota.cost]\ncreateOrUpdateCustomer = 3\ngetStatus = 3",
            "daily",
            "the cost of one of its services",
        ),
    ] {
        let folder = Folder::new();
        let text = of_tenant(&format!("[tenants.quota]\n{quota}"));
        folder.write("gateway.toml", text);
        let warnings = folder.load(&["gateway.toml"]).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{quota}");
        assert_eq!(warnings[0].key(), format!("tenants[acme].quota.{key}"));
        assert!(warnings[0].to_string().contains(part), "{}", warnings[0]);
    }
    limits("[tenants.quota]\ndaily = 10\nmonthly = 10\nbytes_daily = \"10MB\"");
}

/// What stands behind the tenant, the key that is wrong, and a part of what the mistake says.
const OF_TENANT: &[(&str, &str, &str)] = &[
    (
        "[tenants.quota]\nrate = 20",
        "quota.rate",
        "write a rate such as \"20/s\"",
    ),
    (
        "[tenants.quota]\nrate = \"20\"",
        "quota.rate",
        "write a rate such as",
    ),
    (
        "[tenants.quota]\nrate = \"20/d\"",
        "quota.rate",
        "write a rate such as",
    ),
    (
        "[tenants.quota]\nrate = \"0/s\"",
        "quota.rate",
        "from 1 to 1000000",
    ),
    (
        "[tenants.quota]\nrate = \"1000001/s\"",
        "quota.rate",
        "is out of range",
    ),
    (
        "[tenants.quota]\nrate = \"5000000000/h\"",
        "quota.rate",
        "is out of range",
    ),
    (
        "[tenants.quota]\nburst = 5",
        "quota.burst",
        "write `rate` beside it",
    ),
    (
        "[tenants.quota]\nrate = \"5/s\"\nburst = 0",
        "quota.burst",
        "from 1 to 1000000",
    ),
    (
        "[tenants.quota]\nrate = \"5/d\"\nburst = 9",
        "quota.rate",
        "write a rate",
    ),
    (
        "[tenants.quota]\nconcurrency = 0",
        "quota.concurrency",
        "from 1 to 1000000",
    ),
    (
        "[tenants.quota]\nconcurrency = 1000001",
        "quota.concurrency",
        "is out of range",
    ),
    (
        "[tenants.quota]\ndaily = 0",
        "quota.daily",
        "from 1 to 1000000000000000",
    ),
    (
        "[tenants.quota]\ndaily = \"10\"",
        "quota.daily",
        "is not a whole number",
    ),
    (
        "[tenants.quota]\nmonthly = 1000000000000001",
        "quota.monthly",
        "is out of range",
    ),
    (
        "[tenants.quota]\nbytes_daily = \"0B\"",
        "quota.bytes_daily",
        "write a size such as",
    ),
    (
        "[tenants.quota]\nbytes_daily = \"5gb\"",
        "quota.bytes_daily",
        "write a size such as",
    ),
    (
        "[tenants.quota]\ntime_zone = \"Europe/Berln\"",
        "quota.time_zone",
        "`Europe/Berlin`",
    ),
    (
        "[tenants.quota]\ntime_zone = \"\"",
        "quota.time_zone",
        "write an IANA name",
    ),
    (
        "[tenants.quota]\ntime_zone = 1",
        "quota.time_zone",
        "is not a text",
    ),
    (
        "[tenants.quota]\nbilling_day = 0",
        "quota.billing_day",
        "from 1 to 31",
    ),
    (
        "[tenants.quota]\nbilling_day = 32",
        "quota.billing_day",
        "from 1 to 31",
    ),
    (
        "[tenants.quota]\nwarn_at = 80",
        "quota.warn_at",
        "from 0.01 to 1.0",
    ),
    (
        "[tenants.quota]\nwarn_at = 1",
        "quota.warn_at",
        "is not a share",
    ),
    (
        "[tenants.quota]\nwarn_at = \"0.8\"",
        "quota.warn_at",
        "is not a share",
    ),
    (
        "[tenants.quota]\nwarn_at = 0.0",
        "quota.warn_at",
        "is out of range",
    ),
    (
        "[tenants.quota]\nwarn_at = 1.01",
        "quota.warn_at",
        "is out of range",
    ),
    (
        "[tenants.quota]\nwarn_at = nan",
        "quota.warn_at",
        "is out of range",
    ),
    (
        "[tenants.quota]\nwarn_at = 0.805",
        "quota.warn_at",
        "more than two decimals",
    ),
    (
        "[tenants.quota]\nweekly = 5",
        "quota.weekly",
        "is not a known key",
    ),
    (
        "[tenants.quota]\nmontly = 5",
        "quota.montly",
        "did you mean `monthly`?",
    ),
    ("quota = 5", "quota", "is not a table"),
    (
        "[tenants.quota.per_subject]\ndaily = 5",
        "quota.per_subject",
        "is not a known key",
    ),
    (
        "[tenants.per_subject]\nrate = \"x\"",
        "per_subject.rate",
        "write a rate such as",
    ),
    (
        "[tenants.per_subject]\nburst = 5",
        "per_subject.burst",
        "write `rate` beside it",
    ),
    (
        "[tenants.per_subject]\ndaily = 0",
        "per_subject.daily",
        "from 1 to",
    ),
    (
        "[tenants.per_subject]\nmonthly = 5",
        "per_subject.monthly",
        "is not a known key",
    ),
];

/// The same of what stands before everything else.
const OF_ALL: &[(&str, &str, &str)] = &[
    (
        "[quota]\nmax_subjects = 999",
        "quota.max_subjects",
        "from 1000 to 10000000",
    ),
    (
        "[quota]\nmax_subjects = 10000001",
        "quota.max_subjects",
        "is out of range",
    ),
    (
        "[quota]\nrate = \"5/s\"",
        "quota.rate",
        "is not a known key",
    ),
    (
        "[quota.cost]\ngetstatus = 5",
        "quota.cost.getstatus",
        "did you mean `getStatus`?",
    ),
    (
        "[quota.cost]\ngetStatus = -1",
        "quota.cost.getStatus",
        "from 0 to 1000000",
    ),
    (
        "[quota.cost]\ngetStatus = 1000001",
        "quota.cost.getStatus",
        "is out of range",
    ),
    (
        "[quota.cost]\ngetStatus = 0.5",
        "quota.cost.getStatus",
        "is not a whole number",
    ),
    (
        "[quota.charge]\nrefused = true",
        "quota.charge.refused",
        "write one of \"keep\", \"refund\"",
    ),
    (
        "[quota.charge]\nunknown = \"free\"",
        "quota.charge.unknown",
        "write one of \"keep\"",
    ),
    (
        "[quota.charge]\nunavailable = \"\"",
        "quota.charge.unavailable",
        "write one of \"keep\"",
    ),
    (
        "[quota.charge]\nsent = \"keep\"",
        "quota.charge.sent",
        "is not a known key",
    ),
];

#[test]
fn each_mistake_says_where_it_is_and_how_to_mend_it() {
    let of_tenant = OF_TENANT
        .iter()
        .map(|(text, key, part)| (of_tenant(text), format!("tenants[acme].{key}"), *part));
    let of_all = OF_ALL
        .iter()
        .map(|(text, key, part)| (format!("{text}\n{BASE}"), (*key).to_owned(), *part));
    for (text, key, part) in of_tenant.chain(of_all) {
        let folder = Folder::new();
        folder.write("gateway.toml", text);
        let found = folder.mistakes(&["gateway.toml"]);
        assert_eq!(found, pairs(&[("gateway.toml", &key)]), "{part}");
        let line = folder.load(&["gateway.toml"]).unwrap_err().to_string();
        assert!(line.contains(part), "{key}: {line}");
    }
}
