//! OTLP's JSON form: protobuf's mapping with names in lower camel case, 64-bit numbers as
//! text or as numbers, and fields that are not known read over.

use super::otlp_exponential::{ExponentialBuckets, ExponentialPoint, Exponentials};
use super::otlp_wire::{
    AnyValue, ArrayValue, Data, Exported, HistogramPoint, Histograms, KeyValue, MapValue, Metric,
    NumberPoint, Numbers, PointExemplar, QuantileValue, Resource, ResourceMetrics, ScopeMetrics,
    Summaries, SummaryPoint, Value,
};
use serde_json::Value as Json;

type Read<T> = Result<T, String>;

pub(super) fn read(body: &[u8]) -> Read<Exported> {
    let json: Json = serde_json::from_slice(body).map_err(|e| format!("JSON: {e}"))?;
    Ok(Exported { resource_metrics: list(&json, "resourceMetrics", resource_metrics)? })
}

fn list<T>(of: &Json, name: &str, one: impl Fn(&Json) -> Read<T>) -> Read<Vec<T>> {
    match of.get(name) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(all)) => all.iter().map(one).collect(),
        Some(_) => Err(format!("{name} is no list")),
    }
}

fn string(of: &Json, name: &str) -> Read<String> {
    match of.get(name) {
        None | Some(Json::Null) => Ok(String::new()),
        Some(Json::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{name} is no text")),
    }
}

fn whole<T: std::str::FromStr>(of: &Json, name: &str) -> Read<Option<T>> {
    let bad = || format!("{name} is no whole number that fits");
    match of.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => text.parse().map(Some).map_err(|_| bad()),
        Some(Json::Number(n)) => n.to_string().parse().map(Some).map_err(|_| bad()),
        Some(_) => Err(bad()),
    }
}

fn double_of(json: &Json, name: &str) -> Read<f64> {
    match json {
        Json::Number(n) => n.as_f64().ok_or_else(|| format!("{name} is no number")),
        Json::String(text) => match &**text {
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            text => text.parse().map_err(|_| format!("{name} is no number")),
        },
        _ => Err(format!("{name} is no number")),
    }
}

fn double(of: &Json, name: &str) -> Read<Option<f64>> {
    match of.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(json) => double_of(json, name).map(Some),
    }
}

fn temporality(of: &Json) -> Read<i32> {
    match of.get("aggregationTemporality") {
        Some(Json::String(name)) => Ok(match &**name {
            "AGGREGATION_TEMPORALITY_DELTA" => 1,
            "AGGREGATION_TEMPORALITY_CUMULATIVE" => 2,
            _ => 0,
        }),
        _ => Ok(whole(of, "aggregationTemporality")?.unwrap_or(0)),
    }
}

fn resource_metrics(json: &Json) -> Read<ResourceMetrics> {
    let resource = match json.get("resource") {
        None | Some(Json::Null) => None,
        Some(resource) => Some(Resource { attributes: attributes(resource)? }),
    };
    let scope = |scope: &Json| Ok(ScopeMetrics { metrics: list(scope, "metrics", metric)? });
    Ok(ResourceMetrics { resource, scope_metrics: list(json, "scopeMetrics", scope)? })
}

fn attributes(json: &Json) -> Read<Vec<KeyValue>> {
    list(json, "attributes", key_value)
}

fn key_value(json: &Json) -> Read<KeyValue> {
    let value = json.get("value").map(any).transpose()?;
    Ok(KeyValue { key: string(json, "key")?, value })
}

/// Nesting is bounded by the JSON reader.
fn any(json: &Json) -> Read<AnyValue> {
    let Some((kind, value)) = json.as_object().and_then(|o| o.iter().next()) else {
        return Ok(AnyValue { value: None });
    };
    let value = match &**kind {
        "stringValue" => Value::Text(string(json, kind)?),
        "boolValue" => Value::Bool(value.as_bool().ok_or("boolValue is neither true nor false")?),
        "intValue" => Value::Int(whole(json, kind)?.unwrap_or(0)),
        "doubleValue" => Value::Double(double_of(value, kind)?),
        "arrayValue" => Value::Array(ArrayValue { values: list(value, "values", any)? }),
        "kvlistValue" => Value::Map(MapValue { values: list(value, "values", key_value)? }),
        "bytesValue" => Value::Text(string(json, kind)?),
        other => return Err(format!("{other} is no kind of value")),
    };
    Ok(AnyValue { value: Some(value) })
}

fn metric(json: &Json) -> Read<Metric> {
    let numbers = |of: &Json| -> Read<Numbers> {
        Ok(Numbers {
            data_points: list(of, "dataPoints", number)?,
            temporality: temporality(of)?,
            monotonic: of.get("isMonotonic").and_then(Json::as_bool).unwrap_or(false),
        })
    };
    let data = if let Some(gauge) = json.get("gauge") {
        Some(Data::Gauge(numbers(gauge)?))
    } else if let Some(sum) = json.get("sum") {
        Some(Data::Sum(numbers(sum)?))
    } else if let Some(of) = json.get("histogram") {
        let data_points = list(of, "dataPoints", histogram)?;
        Some(Data::Histogram(Histograms { data_points, temporality: temporality(of)? }))
    } else if let Some(of) = json.get("summary") {
        Some(Data::Summary(Summaries { data_points: list(of, "dataPoints", summary)? }))
    } else if let Some(of) = json.get("exponentialHistogram") {
        let data_points = list(of, "dataPoints", exponential)?;
        Some(Data::Exponential(Exponentials { data_points, temporality: temporality(of)? }))
    } else {
        None
    };
    Ok(Metric {
        name: string(json, "name")?,
        description: string(json, "description")?,
        unit: string(json, "unit")?,
        data,
    })
}

fn time(json: &Json) -> Read<u64> {
    Ok(whole::<u64>(json, "timeUnixNano")?.unwrap_or(0))
}

fn flags(json: &Json) -> Read<u32> {
    Ok(whole::<u32>(json, "flags")?.unwrap_or(0))
}

fn number(json: &Json) -> Read<NumberPoint> {
    Ok(NumberPoint {
        attributes: attributes(json)?,
        time_unix_nano: time(json)?,
        as_double: double(json, "asDouble")?,
        as_int: whole(json, "asInt")?,
        exemplars: list(json, "exemplars", exemplar)?,
        flags: flags(json)?,
    })
}

fn exemplar(json: &Json) -> Read<PointExemplar> {
    Ok(PointExemplar {
        filtered_attributes: list(json, "filteredAttributes", key_value)?,
        time_unix_nano: time(json)?,
        as_double: double(json, "asDouble")?,
        as_int: whole(json, "asInt")?,
        span_id: id(json, "spanId")?,
        trace_id: id(json, "traceId")?,
    })
}

/// OTLP's JSON has these as hexadecimal digits, not as base64.
fn id(json: &Json, name: &str) -> Read<Vec<u8>> {
    let text = string(json, name)?;
    let byte = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2);
        digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes.ok_or_else(|| format!("{name} is not of hexadecimal digits"))
}

fn bucket_count(json: &Json) -> Read<u64> {
    let text = json.as_str().map_or_else(|| json.to_string(), str::to_owned);
    text.parse().map_err(|_| "bucketCounts: no whole number".to_owned())
}

fn exponential(json: &Json) -> Read<ExponentialPoint> {
    let buckets = |name: &str| -> Read<Option<ExponentialBuckets>> {
        let Some(of) = json.get(name) else { return Ok(None) };
        Ok(Some(ExponentialBuckets {
            offset: whole(of, "offset")?.unwrap_or(0),
            bucket_counts: list(of, "bucketCounts", bucket_count)?,
        }))
    };
    Ok(ExponentialPoint {
        attributes: attributes(json)?,
        time_unix_nano: time(json)?,
        count: whole(json, "count")?.unwrap_or(0),
        sum: double(json, "sum")?,
        scale: whole(json, "scale")?.unwrap_or(0),
        zero_count: whole(json, "zeroCount")?.unwrap_or(0),
        positive: buckets("positive")?,
        negative: buckets("negative")?,
        flags: flags(json)?,
        exemplars: list(json, "exemplars", exemplar)?,
        zero_threshold: double(json, "zeroThreshold")?.unwrap_or(0.0),
    })
}

fn histogram(json: &Json) -> Read<HistogramPoint> {
    Ok(HistogramPoint {
        attributes: attributes(json)?,
        time_unix_nano: time(json)?,
        count: whole(json, "count")?.unwrap_or(0),
        sum: double(json, "sum")?,
        bucket_counts: list(json, "bucketCounts", bucket_count)?,
        explicit_bounds: list(json, "explicitBounds", |b| double_of(b, "explicitBounds"))?,
        exemplars: list(json, "exemplars", exemplar)?,
        flags: flags(json)?,
    })
}

fn summary(json: &Json) -> Read<SummaryPoint> {
    let quantile = |json: &Json| {
        Ok(QuantileValue {
            quantile: double(json, "quantile")?.unwrap_or(0.0),
            value: double(json, "value")?.unwrap_or(0.0),
        })
    };
    Ok(SummaryPoint {
        attributes: attributes(json)?,
        time_unix_nano: time(json)?,
        count: whole(json, "count")?.unwrap_or(0),
        sum: double(json, "sum")?.unwrap_or(0.0),
        quantile_values: list(json, "quantileValues", quantile)?,
        flags: flags(json)?,
    })
}
