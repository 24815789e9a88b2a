//! Database servers as child processes.

use std::time::Duration;

use tidings_testkit::{
    databases::{DatabaseServer, Engine},
    wait,
};

/// Two databases of the shared server know nothing of each other, and text arrives as it was sent.
async fn databases_are_apart(engine: Engine) {
    let server = DatabaseServer::shared(engine).await.unwrap();
    let (one, other) = (server.database().await.unwrap(), server.database().await.unwrap());
    server.sql(&one, "CREATE TABLE words (word VARCHAR(20)); INSERT INTO words VALUES ('안녕'), ('b')").await.unwrap();
    assert_eq!(server.sql(&one, "SELECT word, 1 FROM words ORDER BY word").await.unwrap(), "b\t1\n안녕\t1");
    let error = server.sql(&other, "SELECT word FROM words").await.unwrap_err().to_string();
    assert!(error.contains("words"), "{error}");
    let again = DatabaseServer::shared(engine).await.unwrap();
    assert_eq!(server.pid(), again.pid());
}

/// What was committed is there after `SIGKILL` and after a stop.
async fn data_outlives_its_server(engine: Engine) {
    let mut server = DatabaseServer::start(engine).await.unwrap();
    let url = server.database().await.unwrap();
    server.sql(&url, "CREATE TABLE numbers (number INTEGER)").await.unwrap();
    for number in 0..3 {
        server.sql(&url, &format!("INSERT INTO numbers VALUES ({number})")).await.unwrap();
        match number {
            0 => server.kill9().await.unwrap(),
            1 => server.stop().await.unwrap(),
            // Without being ended before.
            _ => {}
        }
        if number < 2 {
            assert!(server.sql(&url, "SELECT 1").await.is_err(), "it answers although it was ended");
        }
        server.restart().await.unwrap();
    }
    assert_eq!(server.sql(&url, "SELECT COUNT(*), MAX(number) FROM numbers").await.unwrap(), "3\t2");

    let (pid, addr) = (server.pid().unwrap(), server.addr());
    drop(server);
    assert!(std::fs::read_dir(format!("/proc/{pid}")).is_err(), "the process is still there");
    let closed = async || tokio::net::TcpStream::connect(addr).await.is_err().then_some(());
    wait::until("the port to be closed", Duration::from_secs(30), closed).await.unwrap();
}

#[tokio::test]
async fn databases_of_postgres_are_apart() {
    databases_are_apart(Engine::Postgres).await;
}

#[tokio::test]
async fn databases_of_mariadb_are_apart() {
    databases_are_apart(Engine::MariaDb).await;
}

#[tokio::test]
async fn data_outlives_postgres() {
    data_outlives_its_server(Engine::Postgres).await;
}

#[tokio::test]
async fn data_outlives_mariadb() {
    data_outlives_its_server(Engine::MariaDb).await;
}
