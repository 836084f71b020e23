//! The shim is only a wire, until it is asked to be something else. And the bench's own tables are
//! what the TPM says.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use swtpm_tests::shim::{Action, Chip, Fault};
use swtpm_tests::swtpm::read_message;
use swtpm_tests::{Bench, Shim, Swtpm, wire};

/// A client of raw commands.
struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        Client(stream)
    }

    fn try_send(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        read_message(&mut self.0)
    }

    fn send(&mut self, command: &[u8]) -> Vec<u8> {
        self.try_send(command).expect("an answer")
    }

    fn make(&mut self, command: &[u8]) -> u32 {
        let response = self.send(command);
        assert_eq!(wire::response_code(&response), 0, "{}", wire::name(wire::u32_at(command, 6)));
        wire::u32_at(&response, 10)
    }
}

/// TPM2_CreatePrimary of an ECC P-256 storage key.
fn primary() -> Vec<u8> {
    ecc_primary(0x0003)
}

fn ecc_primary(curve: u16) -> Vec<u8> {
    let mut public = Vec::new();
    public.extend([0x00, 0x23, 0x00, 0x0B]);
    public.extend(0x0003_0472u32.to_be_bytes());
    public.extend(wire::sized(&[]));
    public.extend([0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10]);
    public.extend(curve.to_be_bytes());
    public.extend([0x00, 0x10]);
    public.extend(wire::sized(&[]));
    public.extend(wire::sized(&[]));
    let mut parameters = wire::sized(&[0, 0, 0, 0]);
    parameters.extend(wire::sized(&public));
    parameters.extend(wire::sized(&[]));
    parameters.extend(0u32.to_be_bytes());
    wire::command(wire::CREATE_PRIMARY, &[wire::OWNER], Some(b""), &parameters)
}

/// TPM2_StartAuthSession, unbound and unsalted.
fn session() -> Vec<u8> {
    let mut parameters = wire::sized(&[7; 16]);
    parameters.extend(wire::sized(&[]));
    parameters.push(0);
    parameters.extend([0x00, 0x10, 0x00, 0x0B]);
    wire::command(wire::START_AUTH_SESSION, &[0x4000_0007, 0x4000_0007], None, &parameters)
}

fn read_public(handle: u32) -> Vec<u8> {
    wire::command(wire::READ_PUBLIC, &[handle], None, &[])
}

fn random(count: u16) -> Vec<u8> {
    wire::command(wire::GET_RANDOM, &[], None, &count.to_be_bytes())
}

/// TPM2_Hash with SHA-256 and no hierarchy: the answer depends on nothing but `value`.
fn hash(value: &[u8]) -> Vec<u8> {
    let mut parameters = wire::sized(value);
    parameters.extend([0, 0x0B, 0x40, 0, 0, 7]);
    wire::command(0x17D, &[], None, &parameters)
}

#[test]
fn the_table_of_commands_is_what_the_tpm_says() {
    let tpm = Swtpm::start();

    let response = tpm.send(&wire::get_capability(2, 0, 256));

    let mut seen = 0;
    for row in response[19..].chunks_exact(4) {
        let attributes = wire::u32_at(row, 0);
        let Some(known) = wire::lookup(attributes & 0xFFFF) else { continue };
        seen += 1;
        if known.code != wire::FLUSH_CONTEXT {
            assert_eq!((attributes >> 25 & 7) as usize, known.handles, "{}", known.name);
        }
        assert_eq!(attributes >> 28 & 1 == 1, known.makes, "{}", known.name);
    }
    assert!(seen > 90, "only {seen} commands compared");
}

#[test]
fn the_idle_shim_is_only_a_wire() {
    let (direct, proxied) = (Swtpm::start(), Bench::start());
    let commands = [
        wire::get_capability(6, 0x100, 8),
        wire::get_capability(2, 0, 256),
        wire::get_capability(8, 0, 64),
        hash(b"x"),
        read_public(0x8100_0001),
        wire::command(0x1FF, &[], None, &[]),
        // A length that is not the command's, a command without a parameter.
        vec![0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0x7B],
    ];
    let mut client = Client::connect(proxied.shim.socket());

    for command in &commands {
        assert_eq!(direct.send(command), client.send(command));
    }

    assert_eq!(proxied.shim.record().sent(), commands.len());
    assert_eq!(proxied.shim.record().executed(), commands.len());
}

#[test]
fn handles_of_a_bare_tpm_are_its_own_and_stay_when_the_client_goes() {
    let bench = Bench::start();
    let mut client = Client::connect(bench.shim.socket());

    let object = client.make(&primary());
    let started = client.make(&session());

    assert_eq!(object, 0x8000_0000);
    drop(client);
    let left = bench.shim.left();
    assert_eq!((left.objects, left.sessions), (vec![object], vec![started]));
}

#[test]
fn a_bare_tpm_serves_one_client_at_a_time() {
    let bench = Bench::start();
    let mut first = Client::connect(bench.shim.socket());
    first.send(&random(8));
    let mut second = Client::connect(bench.shim.socket());
    second.0.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");

    assert!(second.try_send(&random(8)).is_err(), "the first one is still there");

    first.send(&random(8));
    drop(first);
    second.0.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    assert_eq!(wire::response_code(&read_message(&mut second.0).expect("its turn")), 0);
}

#[test]
fn the_record_tells_what_crossed_the_bus_in_clear() {
    let bench = Bench::start();
    let mut client = Client::connect(bench.shim.socket());

    client.send(&primary());
    client.send(&wire::command(0x121, &[wire::OWNER], Some(b"secret"), &[0; 5]));

    let record = bench.shim.record();
    assert_eq!(record.names(), ["CreatePrimary", "HierarchyControl"]);
    assert!(record.0[0].sessions[0].is_password());
    assert!(!record.0[0].shows_a_password(), "an empty one shows nothing");
    assert!(record.0[1].shows_a_password());
    assert_eq!(record.0[0].answer, Some(0));
    assert_eq!(record.0[0].handles, [wire::OWNER]);
}

#[test]
fn a_fault_meets_the_command_it_waits_for_and_no_other() {
    let bench = Bench::start();
    let mut client = Client::connect(bench.shim.socket());
    bench.shim.inject(Fault::at(wire::GET_RANDOM, Action::Answer(0x922)).after(1).times(2));

    let answers: Vec<u32> = (0..5).map(|_| wire::response_code(&client.send(&random(4)))).collect();
    let other = wire::response_code(&client.send(&wire::get_capability(8, 0, 1)));

    assert_eq!((answers, other), (vec![0, 0x922, 0x922, 0, 0], 0));
    assert_eq!(bench.shim.heal(), 2);
}

#[test]
fn a_response_can_be_late_or_garbled() {
    let bench = Bench::start();
    let mut client = Client::connect(bench.shim.socket());
    let clean = client.send(&hash(b"x"));
    bench.shim.inject(Fault::at_any(Action::Delay(Duration::from_millis(150))));
    bench.shim.inject(Fault::at_any(Action::Garble { at: -1, xor: 0xFF }));

    let began = Instant::now();
    assert_eq!(client.send(&hash(b"x")), clean);
    assert!(began.elapsed() >= Duration::from_millis(150));

    let garbled = client.send(&hash(b"x"));
    assert_eq!(garbled.last().map(|byte| byte ^ 0xFF), clean.last().copied());
    assert_eq!(client.send(&hash(b"x")), clean);
}

#[test]
fn a_connection_can_be_cut_before_inside_and_after_an_answer() {
    let bench = Bench::start();
    for (action, executed) in
        [(Action::DropBefore, false), (Action::DropAfter, true), (Action::DropInside(11), true)]
    {
        bench.shim.inject(Fault::at(wire::CREATE_PRIMARY, action.clone()));
        let mark = bench.shim.mark();

        assert!(Client::connect(bench.shim.socket()).try_send(&primary()).is_err());

        assert_eq!(bench.shim.since(mark).0[0].answer, None, "{action:?}");
        let left = bench.shim.left().objects;
        assert_eq!(!left.is_empty(), executed, "{action:?}");
        for handle in left {
            bench.shim.ask(&wire::command(wire::FLUSH_CONTEXT, &[handle], None, &[]));
        }
    }
}

#[test]
fn silence_lasts_until_the_client_gives_up() {
    let bench = Bench::start();
    bench.shim.inject(Fault::at_any(Action::Silence));
    let mut client = Client::connect(bench.shim.socket());
    client.0.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");

    assert!(client.try_send(&random(4)).is_err());

    drop(client);
    Client::connect(bench.shim.socket()).send(&random(4));
}

#[test]
fn open_connections_can_be_cut() {
    let bench = Bench::managed();
    let mut clients = [(); 2].map(|()| Client::connect(bench.shim.socket()));
    for client in &mut clients {
        client.send(&random(4));
    }

    bench.shim.cut_connections();

    for client in &mut clients {
        assert!(client.try_send(&random(4)).is_err());
    }
    Client::connect(bench.shim.socket()).send(&random(4));
}

#[test]
fn a_lesser_chip_reports_less_and_refuses_what_it_does_not_report() {
    let bench = Bench::start();
    bench.shim.become_chip(Chip {
        without_commands: vec![wire::ENCRYPT_DECRYPT_2],
        without_algorithms: vec![0x000C],
        without_curves: vec![0x0004],
        ..Chip::default()
    });
    let mut client = Client::connect(bench.shim.socket());

    let curves = rows(&client.send(&wire::get_capability(8, 0, 64)), 2);
    let commands = rows(&client.send(&wire::get_capability(2, 0, 256)), 4);
    let algorithms = rows(&client.send(&wire::get_capability(0, 0, 256)), 6);
    let created = client.send(&ecc_primary(0x0004));
    let command = client.send(&wire::command(wire::ENCRYPT_DECRYPT_2, &[0x8000_0000], None, &[]));

    assert!(curves.contains(&3) && !curves.contains(&4));
    assert!(commands.contains(&wire::SIGN) && !commands.contains(&wire::ENCRYPT_DECRYPT_2));
    assert!(algorithms.contains(&0x0B) && !algorithms.contains(&0x0C));
    assert_eq!(wire::response_code(&created), 0x2E6, "TPM_RC_CURVE of the second parameter");
    assert_eq!(wire::response_code(&command), 0x143, "TPM_RC_COMMAND_CODE");
    client.make(&primary());
}

/// The rows of a GetCapability answer, by the number each begins with.
fn rows(response: &[u8], width: usize) -> Vec<u32> {
    let rows: Vec<_> = response[19..].chunks_exact(width).collect();
    assert_eq!(rows.len(), wire::u32_at(response, 15) as usize);
    assert_eq!(wire::u32_at(response, 2) as usize, response.len());
    rows.iter()
        .map(|row| match width {
            4 => wire::u32_at(row, 0) & 0xFFFF,
            _ => u32::from(wire::u16_at(row, 0)),
        })
        .collect()
}

#[test]
fn behind_the_resource_manager_each_object_costs_three_commands_and_each_session_two() {
    let bench = Bench::managed();
    let mut client = Client::connect(bench.shim.socket());
    let mut other = Client::connect(bench.shim.socket());

    let object = client.make(&primary());
    client.make(&session());
    let mark = bench.shim.mark();
    client.send(&read_public(object));
    other.send(&random(4));

    assert_eq!(object, 0x80FF_FFFF, "a virtual handle");
    let record = bench.shim.since(mark);
    assert_eq!(record.0[0].hidden, 5);
    assert_eq!(record.0[1].hidden, 0, "the other connection has nothing loaded");
    let left = bench.shim.left();
    assert!(left.objects.is_empty() && left.sessions.is_empty(), "swapped out: {left:?}");
    assert_eq!(left.saved.len(), 1);
}

#[test]
fn behind_the_resource_manager_connections_do_not_see_each_other() {
    let bench = Bench::managed();
    let mut first = Client::connect(bench.shim.socket());
    let mut second = Client::connect(bench.shim.socket());
    let one = first.make(&primary());
    let two = second.make(&ecc_primary(0x0004));

    assert_eq!(one, two, "each has its own first handle");
    assert_ne!(first.send(&read_public(one)), second.send(&read_public(two)));
    let seen = first.send(&wire::get_capability(1, 0x8000_0000, 8));
    assert_eq!(wire::u32_at(&seen, 15), 1);
    assert_eq!(wire::u32_at(&seen, 19), one);
}

#[test]
fn behind_the_resource_manager_all_objects_of_a_connection_must_fit_into_the_chip() {
    let bench = Bench::managed();
    let mut client = Client::connect(bench.shim.socket());
    for slot in 0..3 {
        assert_eq!(client.make(&primary()), 0x80FF_FFFF - slot);
    }

    let answer = wire::response_code(&client.send(&primary()));

    assert_eq!(answer, 0x902, "TPM_RC_OBJECT_MEMORY");
    drop(client);
    assert!(bench.shim.settled(Duration::from_secs(5)).is_nothing());
}

#[test]
fn behind_the_resource_manager_closing_forgets_objects_and_flushes_sessions() {
    let bench = Bench::managed();
    let mut client = Client::connect(bench.shim.socket());
    client.make(&primary());
    client.make(&session());
    let mark = bench.shim.mark();

    drop(client);

    assert!(bench.shim.settled(Duration::from_secs(5)).is_nothing());
    let record = bench.shim.since(mark);
    assert_eq!(record.executed(), 1, "one FlushContext for the session: {}", record.lines());
}

#[test]
fn behind_the_resource_manager_a_flush_costs_three() {
    let bench = Bench::managed();
    let mut client = Client::connect(bench.shim.socket());
    let object = client.make(&primary());
    let mark = bench.shim.mark();

    client.send(&wire::command(wire::FLUSH_CONTEXT, &[object], None, &[]));
    client.send(&random(4));

    let record = bench.shim.since(mark);
    assert_eq!(record.0[0].executed_with_hidden(), 3, "ContextLoad, FlushContext, a failing save");
    assert_eq!(record.0[1].hidden, 0);
}

#[test]
fn behind_the_resource_manager_objects_do_not_survive_a_power_cut() {
    let mut bench = Bench::managed();
    let mut client = Client::connect(bench.shim.socket());
    let object = client.make(&primary());

    bench.tpm.power_cut();

    assert!(client.try_send(&read_public(object)).is_err());
    let mut client = Client::connect(bench.shim.socket());
    assert_eq!(client.make(&primary()), object);
}

#[test]
fn an_idle_session_and_many_foreign_commands_close_the_context_gap() {
    let bench = Bench::managed();
    let mut idle = Client::connect(bench.shim.socket());
    idle.make(&session());
    let mut busy = Client::connect(bench.shim.socket());
    busy.make(&session());

    // 65,535 saves lie between two contexts at most (TPM_PT_CONTEXT_GAP_MAX), one a command here.
    let gap = |response: Vec<u8>| wire::response_code(&response) == 0x901;
    let failed = (0..66_000).position(|_| gap(busy.send(&random(1))));

    assert!(failed.is_some_and(|count| (65_000..=65_535).contains(&count)), "after {failed:?}");
    let mut third = Client::connect(bench.shim.socket());
    assert!(gap(third.send(&session())), "no session can be had by anybody");
    assert_eq!(wire::response_code(&Client::connect(bench.shim.socket()).send(&random(1))), 0);
    drop(idle);
    assert!(bench.shim.settled(Duration::from_secs(5)).is_nothing());
    Client::connect(bench.shim.socket()).make(&session());
}

#[test]
fn tpm2_tools_reach_the_tpm_through_the_shim() {
    let bench = Bench::start();
    let mut tool = bench.tpm2("tpm2_getrandom");
    tool.args(["--hex", "8"]);

    let output = bench.run(tool, Duration::from_secs(20));

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 16);
    assert_eq!(bench.shim.record().count(wire::GET_RANDOM), 1);
}

#[test]
fn a_failing_test_leaves_no_process_and_no_file() {
    let bench = Bench::start();
    let (own, state) = (bench.directory().to_owned(), bench.tpm.directory().to_owned());

    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _bench = bench;
        std::panic::resume_unwind(Box::new("as a failed assertion does"));
    }));

    assert!(outcome.is_err());
    assert!(!own.exists() && !state.exists());
}

#[test]
fn a_shim_may_stand_before_a_shim() {
    let bench = Bench::start();
    let second = Shim::start(&bench.directory().join("second"), bench.shim.socket(), false)
        .expect("it listens");

    Client::connect(second.socket()).send(&random(4));

    assert_eq!(second.record().lines(), bench.shim.record().lines());
}
