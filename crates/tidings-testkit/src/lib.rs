//! Test equipment: servers as child processes, a proxy that cuts connections, clients.
