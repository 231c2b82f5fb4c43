package main_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// TestSampleHandlers runs the handlers of testdata/handlers, which readers start
// from: all have the same routes.
func TestSampleHandlers(t *testing.T) {
	for name, command := range map[string]func(t testing.TB) string{
		"Go":      func(t testing.TB) string { return programtest.Build(t, "testdata/handlers/hello") },
		"Python":  func(t testing.TB) string { return script(t, "python3", "python/server.py") },
		"Node.js": func(t testing.TB) string { return script(t, "node", "node/server.js") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := programtest.FreePort(t)
			w := start(t, "mode=http", "fprocess="+command(t), "kill_grace=10m",
				fmt.Sprint("http_port=", port), fmt.Sprint("upstream_url=http://127.0.0.1:", port))
			hello := "Hello from " + name + "\n"
			for _, e := range []exchange{
				{"GET", "/", "", nil, 200, hello, "Content-Length: " + fmt.Sprint(len(hello))},
				{"GET", "/slow?ms=1", "", nil, 200, hello, ""},
				{"POST", "/echo", "hello", []string{"Content-Type: text/x-mine"}, 200, "hello", "Content-Type: text/x-mine"},
				{"POST", "/echo", "", nil, 200, "", ""},
			} {
				e.check(t, w)
			}
			if a := w.do("GET", "/sse?n=3", ""); strings.Count(a.body, "\ndata: ") != 3 || a.Header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("GET /sse: %s %q", a.Header.Get("Content-Type"), a.body)
			}
			if a := w.do("GET", "/env", ""); !strings.Contains(a.body, fmt.Sprintf("http_port=%d\n", port)) {
				t.Errorf("GET /env: %q", a.body)
			}
			if a := w.do("GET", "/none", ""); a.StatusCode != 404 {
				t.Errorf("GET /none: %d", a.StatusCode)
			}
			drains(t, w)
		})
	}
}

// script is the command that runs a script of testdata/handlers.
func script(t testing.TB, program, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join("testdata", "handlers", path))
	if err != nil {
		t.Fatal(err)
	}
	return interpreter(t, program) + " '" + abs + "'"
}
