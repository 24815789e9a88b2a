//! Events and notifications that an application leaves in its own database, and `docs/outbox.md`.

use std::{path::Path, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tidings_testkit::{
    client::SseClient,
    databases::{DatabaseServer, Engine},
    http::HttpClient,
    process::{ServerOptions, TidingsServer},
    wait,
};

use crate::{
    command::{Done, tidings},
    documents::{blocks, read, section, shell},
};

const LIMIT: Duration = Duration::from_secs(60);

const KEY: &str = "tk_outbox-0123456789abcdef";

const CONFIG: &str = r#"
[auth]
api_keys = ["tk_outbox-0123456789abcdef"]
jwt_hs256_secret = "outbox-outbox-outbox-outbox-outbox"

[namespaces.board]
history_size = 1000
subscribe = ["anyone"]
"#;

/// An application with a table `boards` and an outbox, made as the page says.
struct Application {
    dir: tempfile::TempDir,
    url: String,
    server: Option<&'static DatabaseServer>,
}

impl Application {
    /// `command` is the page's that makes the tables.
    async fn new(command: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = match command.rsplit_once("| ").unwrap().1 {
            "psql shop" => Some(Engine::Postgres),
            "mysql shop" => Some(Engine::MariaDb),
            "sqlite3 shop.db" => None,
            other => panic!("{other}"),
        };
        let mut application = Self { url: format!("sqlite:{}/shop.db", dir.path().display()), dir, server: None };
        if let Some(engine) = engine {
            let server = DatabaseServer::shared(engine).await.unwrap();
            application.server = Some(server);
            application.url = server.database().await.unwrap();
            // The client of the system would have to be told of the server.
            let (print, _) = command.split_once(" |").unwrap();
            let ddl = application.shell(print);
            application.sql(&ddl).await;
        } else {
            application.shell("sqlite3 shop.db 'PRAGMA journal_mode = WAL'");
            application.shell(command);
        }
        application.sql("CREATE TABLE boards (id INTEGER PRIMARY KEY, title VARCHAR(100))").await;
        application.sql("INSERT INTO boards VALUES (7, 'Board 7')").await;
        application
    }

    /// All three, by the commands of the page.
    async fn all() -> Vec<Self> {
        let page = read("docs/outbox.md");
        let mut all = Vec::new();
        for (_, command) in blocks(section(&page, "## In four steps")).iter().filter(|(language, _)| *language == "sh")
        {
            all.push(Self::new(command).await);
        }
        assert_eq!(all.len(), 3);
        all
    }

    async fn sql(&self, sql: &str) -> String {
        match self.server {
            Some(server) => server.sql(&self.url, sql).await.unwrap(),
            None => self.shell(&format!("sqlite3 -cmd '.timeout 30000' shop.db <<'END'\n{sql}\nEND")),
        }
    }

    fn shell(&self, block: &str) -> String {
        let output = shell(block, self.dir.path()).env("PATH", path()).output().unwrap();
        assert!(output.status.success(), "{block}\n{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// A server that drains it, and whatever else is configured.
    async fn tidings(&self, url: &str) -> TidingsServer {
        let config = format!("outbox = [{{ url = \"{url}\" }}]\n{CONFIG}");
        TidingsServer::start(ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"))).await.unwrap()
    }

    async fn wait_until_empty(&self, table: &str) {
        let is_empty = async || (self.sql(&format!("SELECT COUNT(*) FROM {table}")).await == "0").then_some(());
        wait::until(table, LIMIT, is_empty).await.unwrap();
    }
}

/// Where a shell finds `tidings` too.
fn path() -> String {
    let binaries = Path::new(env!("CARGO_BIN_EXE_tidings")).parent().unwrap();
    format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap())
}

/// The data of all events of a channel that history has.
async fn history(server: &TidingsServer, channel: &str) -> Vec<Value> {
    let path = format!("/v1/channels/{channel}/history?limit=1000");
    let headers = [("authorization".to_owned(), format!("Bearer {KEY}"))];
    let answer = HttpClient::new(server.addr()).send(Method::GET, &path, &headers, "").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()["events"].as_array().unwrap().iter().map(|event| event["data"].clone()).collect()
}

/// The next event of this type.
async fn event(stream: &mut SseClient, event_type: &str) -> Value {
    let received = wait::within(event_type, LIMIT, stream.next_event(LIMIT)).await.unwrap().unwrap();
    assert_eq!(received.event, event_type);
    serde_json::from_str(&received.data).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_does_arrives() {
    let page = read("docs/outbox.md");
    let steps = blocks(section(&page, "## In four steps"));
    let (_, insert) = steps.iter().find(|(language, sql)| *language == "sql" && sql.contains("BEGIN")).unwrap();
    let (_, grants) = steps.iter().find(|(language, sql)| *language == "sql" && sql.contains("GRANT")).unwrap();
    let refused = blocks(section(&page, "## Rows that were refused"));
    let [(_, look), (_, mend)] = refused.as_slice() else { panic!("{refused:?}") };
    for application in Application::all().await {
        // With the rights that the page gives, and no others.
        let url = match application.server.map(DatabaseServer::engine) {
            None => application.url.clone(),
            Some(engine) => {
                let name = application.url.rsplit_once('/').unwrap().1.replace("tidings_", "reader_");
                let (create, user) = match engine {
                    Engine::Postgres => (format!("CREATE ROLE {name} LOGIN"), name.clone()),
                    Engine::MariaDb => (format!("CREATE USER {name}@'127.0.0.1'"), format!("{name}@'127.0.0.1'")),
                };
                let grants = grants.replace("TO tidings", &format!("TO {user}"));
                application.sql(&format!("{create};\n{grants}")).await;
                let (scheme, rest) = application.url.split_once("://").unwrap();
                format!("{scheme}://{name}@{}", rest.split_once('@').unwrap().1)
            }
        };
        let server = application.tidings(&url).await;
        let token = application.shell(&format!("tidings token --config {:?} --sub 42", server.config_path()));
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let mut stream = SseClient::connect(server.addr(), "/v1/subscribe?channel=board:7", &headers).await.unwrap();
        assert_eq!(event(&mut stream, "connected").await["user"], "42");

        application.sql(insert).await;
        // They take different ways, so either may be first.
        let (mut renamed, mut told) = (None, None);
        let receiving = async {
            while renamed.is_none() || told.is_none() {
                let received = stream.next_event(LIMIT).await.unwrap();
                let data: Value = serde_json::from_str(&received.data).unwrap();
                match received.event.as_str() {
                    "renamed" => renamed = Some(data),
                    "notification" => told = Some(data),
                    other => panic!("{other}: {data}"),
                }
            }
        };
        wait::within("the event and the notification", LIMIT, receiving).await.unwrap();
        assert_eq!(renamed, Some(json!({ "title": "Lost and found" })));
        let told = told.unwrap();
        assert_eq!(told["notification"]["kind"], "board.renamed");
        assert_eq!(told["counts"]["unread"], 1);
        application.wait_until_empty("tidings_outbox").await;

        let poison =
            r#"INSERT INTO tidings_outbox (payload) VALUES ('{"channel":"board 7","event":"moved","data":1}')"#;
        application.sql(poison).await;
        application.wait_until_empty("tidings_outbox").await;
        let shown = application.sql(look).await;
        assert!(shown.contains("channel: the channel name") && shown.contains("board 7"), "{shown}");
        application.sql(mend).await;
        assert_eq!(event(&mut stream, "moved").await, 1);
        application.wait_until_empty("tidings_outbox_failed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_for_sqlite_runs() {
    let page = read("docs/outbox.md");
    let (_, command) = blocks(&page).into_iter().find(|(_, block)| block.ends_with("| sqlite3 shop.db")).unwrap();
    let application = Application::new(&command).await;
    let server = application.tidings(&application.url).await;
    let programs = blocks(section(&page, "## SQLite"));
    let (_, program) = programs.iter().find(|(language, _)| *language == "python").unwrap();
    application.shell(&format!("python3 - <<'END'\n{program}\nEND"));
    application.wait_until_empty("tidings_outbox").await;
    assert_eq!(application.sql("SELECT title FROM boards").await, "Lost and found");
    assert_eq!(history(&server, "board:7").await, [json!({ "title": "Lost and found" })]);
}

/// The server is killed again and again while rows come in; the log has each once, and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_lost_or_repeated_by_a_server_that_is_killed() {
    const KILLS: usize = 5;
    const ROWS: usize = 100;
    for application in Application::all().await {
        let mut server = application.tidings(&application.url).await;
        for kill in 0..KILLS {
            let rows = (0..ROWS).map(|number| {
                let number = kill * ROWS + number;
                format!(
                    "INSERT INTO tidings_outbox (payload) VALUES ('{{\"channel\":\"board:7\",\"data\":{number}}}');\n"
                )
            });
            application.sql(&rows.collect::<String>()).await;
            let before = kill * ROWS;
            let has_some = async || (history(&server, "board:7").await.len() > before).then_some(());
            wait::until("some of the rows to be published", LIMIT, has_some).await.unwrap();
            server.restart().await.unwrap();
        }
        application.wait_until_empty("tidings_outbox").await;
        let expected: Vec<_> = (0..KILLS * ROWS).map(|number| json!(number)).collect();
        assert_eq!(history(&server, "board:7").await, expected);
        let metrics = HttpClient::new(server.addr()).get("/metrics").await.unwrap().text();
        assert!(metrics.lines().any(|line| line.starts_with("tidings_ingest_leader{") && line.ends_with("} 1")));
    }
}

/// An operator sees in the log what keeps a table from being drained, without its password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_table_is_in_the_log() {
    let database = DatabaseServer::shared(Engine::Postgres).await.unwrap();
    let url = database.database().await.unwrap();
    let url = url.replace("tidings@", "tidings:hunter2@");
    let config = format!("outbox = [{{ url = \"{url}\" }}]\n{CONFIG}");
    let server = TidingsServer::start(ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"))).await.unwrap();
    server.wait_for_log("tidings_outbox cannot be read", LIMIT).await.unwrap();
    let log = server.log();
    assert!(log.contains("tidings outbox ddl --database postgres") && !log.contains("hunter2"), "{log}");
    let metrics = HttpClient::new(server.addr()).get("/metrics").await.unwrap().text();
    assert!(metrics.contains("tidings_ingest_up{source=\"postgres tidings_outbox\"} 0"), "{metrics}");

    let doctor = || {
        let config = server.config_path();
        // Without the variables of the tests, which the command would take for configuration.
        let done = Done::from(tidings(&["doctor", "--config", config.to_str().unwrap()]).output().unwrap());
        assert!(!done.stdout.is_empty(), "{done:?}");
        done.stdout
    };
    let said = doctor();
    assert!(
        said.contains("postgres tidings_outbox: tidings_outbox cannot be read") && !said.contains("hunter2"),
        "{said}"
    );
    let ddl = shell("tidings outbox ddl --database postgres", &server.data_dir()).env("PATH", path()).output().unwrap();
    database.sql(&url, &String::from_utf8(ddl.stdout).unwrap()).await.unwrap();
    let said = doctor();
    assert!(said.contains("postgres tidings_outbox can be drained, 0 rows wait"), "{said}");
}
