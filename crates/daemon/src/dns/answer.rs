//! One question, one answer.
//!
//! | asked | answered |
//! |---|---|
//! | what there is, in `vm.` or the reverse name of an address of ours | the records, authoritative |
//! | an existing name, another type | no error, no records, SOA |
//! | another name in `vm.` | NXDOMAIN, SOA |
//! | another domain, another class, a zone transfer | REFUSED |
//! | another operation | NOTIMP |
//! | EDNS of another version | BADVERS |
//! | what cannot be read but has a header; no question, or several | FORMERR |
//! | an answer, or less than a header | silence |

use super::zone::Zone;
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// 512 bytes by UDP without EDNS (RFC 1035, 4.2.1).
const PLAIN_UDP_BYTES: u16 = 512;
/// 1232 bytes by UDP with it: what passes every path without fragments (DNS flag day 2020).
const EDNS_UDP_BYTES: u16 = 1232;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Absent where silence is the answer.
pub fn answer(zone: &Zone, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(question)).ok()?.metadata;
    if header.message_type != MessageType::Query {
        return None;
    }
    let response = match Message::from_vec(question) {
        Ok(message) => respond(zone, &message),
        Err(_) => failure(&header, ResponseCode::FormErr),
    };
    render(response, transport)
}

fn respond(zone: &Zone, message: &Message) -> Message {
    let mut response = match (message.metadata.op_code, message.queries.as_slice()) {
        (OpCode::Query, _) if message.version() > 0 => failure(&message.metadata, ResponseCode::BADVERS),
        (OpCode::Query, [query]) => look_up(zone, &message.metadata, query),
        (OpCode::Query, _) => failure(&message.metadata, ResponseCode::FormErr),
        _ => failure(&message.metadata, ResponseCode::NotImp),
    };
    if let [query] = message.queries.as_slice() {
        response.add_query(query.clone());
    }
    if message.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(message.max_payload().clamp(PLAIN_UDP_BYTES, EDNS_UDP_BYTES));
        response.set_edns(edns);
    }
    response
}

fn look_up(zone: &Zone, header: &Metadata, query: &Query) -> Message {
    let mut response = failure(header, ResponseCode::NoError);
    let name = LowerName::new(query.name());
    let found = zone.find(&name);
    let ours = found.is_some() || zone.apex.zone_of(&name);
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if !ours || transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        response.metadata.response_code = ResponseCode::Refused;
        return response;
    }
    response.metadata.authoritative = true;
    let wanted = |record: &&Record| query.query_type() == RecordType::ANY || record.record_type() == query.query_type();
    for record in found.unwrap_or_default().iter().filter(wanted) {
        let mut record = record.clone();
        add_target(zone, &mut response, &record);
        // As it was asked for: a client may check that its mix of cases comes back.
        record.name = query.name().clone();
        response.add_answer(record);
    }
    if found.is_none() {
        response.metadata.response_code = ResponseCode::NXDomain;
    }
    if response.answers.is_empty() && zone.apex.zone_of(&name) {
        response.add_authority(zone.soa.clone());
    }
    response
}

/// Who asks for a service will ask for its address next.
fn add_target(zone: &Zone, response: &mut Message, record: &Record) {
    let RData::SRV(service) = &record.data else { return };
    let found = zone.find(&LowerName::new(&service.target)).unwrap_or_default();
    let addresses = found.iter().filter(|record| matches!(record.record_type(), RecordType::A | RecordType::AAAA));
    response.add_additionals(addresses.cloned());
}

fn failure(header: &Metadata, code: ResponseCode) -> Message {
    let mut response = Message::response(header.id, header.op_code);
    response.metadata = Metadata::response_from_request(header);
    response.metadata.response_code = code;
    response
}

/// What is too long for a datagram is cut, so that the client comes back by TCP.
fn render(response: Message, transport: Transport) -> Option<Vec<u8>> {
    let limit = match (transport, &response.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload(),
        (Transport::Udp, None) => PLAIN_UDP_BYTES,
    };
    let bytes = response.to_vec().ok()?;
    match bytes.len() <= usize::from(limit) {
        true => Some(bytes),
        false => response.truncate().to_vec().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::zone::{Host, Service};
    use super::*;
    use hickory_proto::rr::Name;
    use model::port::Protocol;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn zone() -> Zone {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let service = |guest_port, bound: &str| Service {
            protocol: Protocol::Tcp,
            guest_port,
            bound: bound.parse().expect("an address"),
        };
        let host = |name: &str, addresses: &[&str], services| Host {
            name: name.parse().expect("a name"),
            addresses: addresses.iter().map(|text| address(text)).collect(),
            services,
        };
        let many: Vec<String> = (0..100).map(|last| format!("10.1.0.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        Zone::new(
            &[
                host(
                    "web",
                    &["10.77.0.2", "fd77::2"],
                    vec![service(80, "127.0.0.1:8080"), service(22, "10.77.0.2:22")],
                ),
                host("bare", &[], vec![]),
                host("many", &many, vec![]),
            ],
            7,
        )
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(99, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        message
    }

    fn tell(message: &Message, transport: Transport) -> Message {
        let bytes = answer(&zone(), &message.to_vec().expect("written"), transport).expect("an answer");
        Message::from_vec(&bytes).expect("it can be read")
    }

    /// `expected`: the response code, then the answers' data.
    fn check(name: &str, kind: RecordType, expected: &[&str]) {
        let told = tell(&ask(name, kind), Transport::Udp);
        let code = format!("{:?}", told.metadata.response_code);
        let data = told.answers.iter().map(|record| record.data.to_string());
        let seen: Vec<String> = std::iter::once(code).chain(data).collect();
        assert_eq!(seen, expected, "{name} {kind}");
        assert_eq!(told.metadata.id, 99);
    }

    #[test]
    fn names_addresses_and_services_are_found() {
        check("web.vm.", RecordType::A, &["NoError", "10.77.0.2"]);
        check("WeB.vM.", RecordType::A, &["NoError", "10.77.0.2"]);
        check("web.vm.", RecordType::AAAA, &["NoError", "fd77::2"]);
        check("web.vm.", RecordType::ANY, &["NoError", "10.77.0.2", "fd77::2"]);
        check("2.0.77.10.in-addr.arpa.", RecordType::PTR, &["NoError", "web.vm."]);
        check("_http._tcp.web.vm.", RecordType::SRV, &["NoError", "0 0 8080 published.web.vm."]);
        check("_80._tcp.web.vm.", RecordType::SRV, &["NoError", "0 0 8080 published.web.vm."]);
        check("_ssh._tcp.web.vm.", RecordType::SRV, &["NoError", "0 0 22 web.vm."]);
        check("published.web.vm.", RecordType::A, &["NoError", "127.0.0.1"]);
        check("vm.", RecordType::NS, &["NoError", "ns.vm."]);
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_is_not_ours() {
        check("web.vm.", RecordType::MX, &["NoError"]);
        check("bare.vm.", RecordType::A, &["NoError"]);
        check("_tcp.web.vm.", RecordType::SRV, &["NoError"]);
        check("other.vm.", RecordType::A, &["NXDomain"]);
        check("a.web.vm.", RecordType::A, &["NXDomain"]);
        check("example.org.", RecordType::A, &["Refused"]);
        check("xvm.", RecordType::A, &["Refused"]);
        check(".", RecordType::NS, &["Refused"]);
        check("3.0.77.10.in-addr.arpa.", RecordType::PTR, &["Refused"]);
        check("vm.", RecordType::AXFR, &["Refused"]);
        let nothing = tell(&ask("other.vm.", RecordType::A), Transport::Udp);
        assert!(nothing.metadata.authoritative);
        assert_eq!(nothing.authorities.first().map(Record::record_type), Some(RecordType::SOA));
        assert!(tell(&ask("example.org.", RecordType::A), Transport::Udp).authorities.is_empty());
    }

    #[test]
    fn the_name_comes_back_as_it_was_written() {
        let told = tell(&ask("WeB.vM.", RecordType::A), Transport::Udp);
        assert_eq!(told.answers.first().map(|record| record.name.to_ascii()).as_deref(), Some("WeB.vM."));
    }

    #[test]
    fn a_service_brings_its_address_along() {
        let told = tell(&ask("_http._tcp.web.vm.", RecordType::SRV), Transport::Udp);
        assert_eq!(told.additionals.first().map(|record| record.data.to_string()).as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn a_long_answer_is_cut_by_udp_and_whole_by_tcp() {
        let mut question = ask("many.vm.", RecordType::A);
        let cut = tell(&question, Transport::Udp);
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert_eq!(tell(&question, Transport::Tcp).answers.len(), 100);
        let mut edns = Edns::new();
        edns.set_max_payload(65000);
        question.set_edns(edns);
        let told = answer(&zone(), &question.to_vec().expect("written"), Transport::Udp).expect("an answer");
        assert!(told.len() <= usize::from(EDNS_UDP_BYTES));
    }

    #[test]
    fn edns_is_answered_with_edns_and_a_later_version_refused() {
        let mut question = ask("web.vm.", RecordType::A);
        question.set_edns(Edns::new());
        assert!(tell(&question, Transport::Udp).edns.is_some());
        question.edns.as_mut().expect("it was set").set_version(1);
        let told = tell(&question, Transport::Udp);
        // 16 is read back as BADSIG, which shares the number.
        let code = |code: ResponseCode| (code.high(), code.low());
        assert_eq!(code(told.metadata.response_code), code(ResponseCode::BADVERS));
        assert!(told.answers.is_empty());
    }

    #[test]
    fn odd_messages_get_their_code_or_silence() {
        let code = |message: &Message| tell(message, Transport::Udp).metadata.response_code;
        let mut update = ask("web.vm.", RecordType::A);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&update), ResponseCode::NotImp);
        assert_eq!(code(&Message::new(1, MessageType::Query, OpCode::Query)), ResponseCode::FormErr);
        let mut chaos = ask("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut half = ask("web.vm.", RecordType::A).to_vec().expect("written");
        half.truncate(15);
        let told = answer(&zone(), &half, Transport::Udp).expect("the header tells whom to answer");
        assert_eq!(Message::from_vec(&told).expect("read").metadata.response_code, ResponseCode::FormErr);
        let mut reply = ask("web.vm.", RecordType::A);
        reply.metadata.message_type = MessageType::Response;
        assert_eq!(answer(&zone(), &reply.to_vec().expect("written"), Transport::Udp), None);
        assert_eq!(answer(&zone(), &[0; 11], Transport::Udp), None);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), flip in any::<(usize, u8)>()) {
            let zone = zone();
            let _ = answer(&zone, &bytes, Transport::Udp);
            let mut near = ask("_http._tcp.web.vm.", RecordType::SRV).to_vec().expect("written");
            let place = flip.0 % near.len();
            near[place] ^= flip.1;
            if let Some(told) = answer(&zone, &near, Transport::Udp) {
                prop_assert!(told.len() <= 1232);
            }
        }
    }
}
