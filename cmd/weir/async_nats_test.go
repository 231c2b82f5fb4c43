package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// natsServer is the real program, with JetStream.
type natsServer struct {
	*programtest.Program // of the last start
	t                    testing.TB
	name, config, url    string
	// monitor is where it tells of itself.
	monitor string
}

// newNats starts one in a folder of its own; more is for its configuration.
func newNats(t testing.TB, name, more string) *natsServer {
	t.Helper()
	dir, client, monitor := t.TempDir(), programtest.FreePort(t), programtest.FreePort(t)
	s := &natsServer{t: t, name: name, config: filepath.Join(dir, "nats.conf"),
		url: fmt.Sprintf("nats://127.0.0.1:%d", client), monitor: fmt.Sprintf("http://127.0.0.1:%d", monitor)}
	text := fmt.Sprintf("listen: 127.0.0.1:%d\nhttp: 127.0.0.1:%d\nserver_name: %s\njetstream { store_dir: %q, max_file_store: 100GB }\n%s\n", client, monitor, name, dir, more)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	return s
}

// start starts it, again if it has ended.
func (s *natsServer) start() {
	s.t.Helper()
	s.Program = programtest.Start(s.t, exec.Command(programtest.Build(s.t, "github.com/nats-io/nats-server/v2"), "-c", s.config))
	program := s.Program
	programtest.Eventually(s.t, "nats-server is ready", func() bool {
		if program.Over() {
			s.t.Fatalf("nats-server ended with %d", program.Code())
		}
		return strings.Contains(program.Log.String(), "Server is ready")
	})
}
