package main_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// ends runs a weir that is to end by itself, and returns what it said.
func ends(t *testing.T, p *program, code int) string {
	t.Helper()
	if got := p.Launch().Wait(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	p.Gone()
	return p.Log.String()
}

// says checks that each sentence is there, each in a line of its own.
func says(t *testing.T, text string, sentences ...string) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for _, sentence := range sentences {
		i := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, sentence) })
		if i < 0 {
			t.Errorf("no line with %q", sentence)
			continue
		}
		lines = slices.Delete(lines, i, i+1)
	}
	if t.Failed() {
		t.Logf("it said:\n%s", text)
	}
}

// TestWrongSettings: all at once, each with its value and what was expected.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	said := ends(t, command(t,
		"WEIR_PROVIDER=docker", "WEIR_LISTEN=8080", "WEIR_METRICS_LISTEN=a b:1", "WEIR_HOLD_REQUESTS=many", "WEIR_HOLD_BYTES=-1",
		"WEIR_HOLD_TIMEOUT=forever", "WEIR_MAX_BODY=1MB", "WEIR_DRAIN_INTERVAL=-1s", "WEIR_SHUTDOWN_TIMEOUT=x", "WEIR_LOG_FORMAT=xml",
		"WEIR_LOG_LEVEL=loud", "WEIR_BASIC_AUTH_PASSWORD=secret", "WEIR_BASIC_AUTH_PASSWORD_FILE=/nowhere"), 1)
	says(t, said,
		`WEIR_PROVIDER="docker": expected one of kubernetes, local`,
		`WEIR_LISTEN="8080": expected host:port`, `WEIR_METRICS_LISTEN="a b:1": expected host:port`,
		`WEIR_HOLD_REQUESTS="many": expected a whole number`, `WEIR_HOLD_BYTES="-1": expected a number of bytes`,
		`WEIR_HOLD_TIMEOUT="forever": expected a duration`, `WEIR_MAX_BODY="1MB": expected a number of bytes, also with Ki, Mi or Gi`,
		`WEIR_DRAIN_INTERVAL="-1s": expected`, `WEIR_SHUTDOWN_TIMEOUT="x": expected`, `WEIR_LOG_FORMAT="xml": expected one of text, json`,
		`WEIR_LOG_LEVEL="loud": expected one of debug, info, warn, error`, "are both set: expected one of them")
	if strings.Contains(said, "secret") {
		t.Error("a password was told")
	}
}

// TestStackWithFaults: every fault with its file and line.
func TestStackWithFaults(t *testing.T) {
	t.Parallel()
	p := command(t, "WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "WEIR_FWATCHDOG="+programtest.BuildFwatchdog(t))
	p.Write("stack.yaml", strings.Join([]string{
		1:  "functions:",
		2:  "  good:",
		3:  "    fprocess: cat",
		4:  "  Bad_Name:",
		5:  "    fprocess: cat",
		6:  "  nothing: {}",
		7:  "  both:",
		8:  "    url: http://127.0.0.1:1",
		9:  "    fprocess: cat",
		10: "  far:",
		11: "    url: ftp://example.com/x",
		12: "  typo:",
		13: "    fprocess: cat",
		14: "    enviroment: {}",
		15: "  setting:",
		16: "    fprocess: cat",
		17: "    environment:",
		18: "      exec_timeout: soon",
		19: "      max_inflight: few",
		20: "  good:",
		21: "    fprocess: cat",
		22: "",
	}[1:], "\n"))
	said := ends(t, p, 1)
	says(t, said, "stack.yaml:4: ", "stack.yaml:6: nothing: no fprocess", "stack.yaml:9: both: both url and fprocess",
		"stack.yaml:11: far.url", "stack.yaml:14: typo.enviroment", "stack.yaml:18: setting: ", "stack.yaml:19: setting: ", "stack.yaml:20: ")
	if strings.Contains(said, "weir serves") {
		t.Error("it served")
	}

	for name, text := range map[string]string{"not YAML": "functions: [", "empty": "", "a list": "- a\n"} {
		p := command(t, "WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "WEIR_FWATCHDOG="+programtest.BuildFwatchdog(t))
		p.Write("stack.yaml", text)
		if said := ends(t, p, 1); !strings.Contains(said, "stack.yaml") || !strings.Contains(said, "expected") {
			t.Errorf("%s: %q", name, said)
		}
	}
	p = command(t, "WEIR_PROVIDER=local", "WEIR_STACK=nowhere.yaml", "WEIR_FWATCHDOG="+programtest.BuildFwatchdog(t))
	says(t, ends(t, p, 1), "nowhere.yaml: no such file")
	says(t, ends(t, command(t, "WEIR_PROVIDER=local"), 1), "WEIR_STACK is not set: expected the path of a stack.yaml")
}

// TestWhatIsMissing: what weir needs to begin is said to be missing, and what
// to do.
func TestWhatIsMissing(t *testing.T) {
	t.Parallel()
	const stack = "functions:\n  cat:\n    fprocess: cat\n"
	t.Run("no fwatchdog", func(t *testing.T) {
		p := command(t, "WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "PATH=/nowhere")
		p.Write("stack.yaml", stack)
		says(t, ends(t, p, 1), "WEIR_FWATCHDOG")
		p = command(t, "WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "WEIR_FWATCHDOG=/nowhere/fwatchdog")
		p.Write("stack.yaml", stack)
		says(t, ends(t, p, 1), "/nowhere/fwatchdog")
	})
	t.Run("no temporary folder", func(t *testing.T) {
		p := command(t, "WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "WEIR_FWATCHDOG="+programtest.BuildFwatchdog(t), "TMPDIR=/nowhere")
		p.Write("stack.yaml", stack)
		says(t, ends(t, p, 1), "/nowhere: no such file or directory: expected TMPDIR to be one")
	})
	t.Run("port taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		for _, name := range []string{"WEIR_LISTEN", "WEIR_METRICS_LISTEN"} {
			p := command(t, "WEIR_PROVIDER=local", "WEIR_STACK=stack.yaml", "WEIR_FWATCHDOG="+programtest.BuildFwatchdog(t), name+"="+l.Addr().String())
			p.Write("stack.yaml", stack)
			says(t, ends(t, p, 1), name+": listen tcp "+l.Addr().String()+": bind: address already in use")
		}
	})
	t.Run("an argument", func(t *testing.T) {
		p := command(t)
		p.Args = append(p.Args, "serve")
		says(t, ends(t, p, 1), `argument "serve": weir takes its settings from the environment`)
	})
	t.Run("the version", func(t *testing.T) {
		out, err := exec.Command(programtest.BuildWeir(t), "-version").Output()
		if err != nil || !strings.HasPrefix(string(out), "Version: dev") {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// TestUnknownSetting: a misspelt one is told of.
func TestUnknownSetting(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n  cat:\n    fprocess: cat\n    annotations:\n      weir/zero: \"true\"\n", "WEIR_HOLD_TIME=1s", "WEIR_PORT=tcp://10.0.0.1:80")
	says(t, p.Log.String(), "variable=WEIR_HOLD_TIME")
	if strings.Contains(p.Log.String(), "variable=WEIR_PORT") {
		t.Error("Kubernetes' own variable was taken for a misspelt setting")
	}
}

// TestBadLabels are told of in the log and the API, and stop nothing.
func TestBadLabels(t *testing.T) {
	t.Parallel()
	p := local(t, "functions:\n"+function(t, "echo", nil, append(asleep, `weir/max: "lots"`, `SlimFaas/DependsOn: nobody`))+
		"    labels:\n      com.openfaas.scale.target: \"-1\"\n")
	for _, line := range []string{`weir/max=\"lots\": expected`, `com.openfaas.scale.target=\"-1\": expected`,
		`msg="dependency ignored" object="function default/echo" key=SlimFaas/DependsOn value=nobody.default expected=`} {
		p.Until("the log has "+line, func() bool { return strings.Contains(p.Log.String(), line) })
	}
	p.get("/system/function/echo").check(t, http.StatusOK, `"key":"weir/max","value":"lots","expected":"`, `"key":"com.openfaas.scale.target","value":"-1"`, `"key":"SlimFaas/DependsOn"`)
	p.get("/function/echo").check(t, http.StatusOK)
}

// TestFunctionsThatDoNotStart: their callers and weir's log hear of it.
func TestFunctionsThatDoNotStart(t *testing.T) {
	t.Parallel()
	const zero = "    annotations:\n      weir/zero: \"true\"\n"
	p := local(t, "functions:\n"+
		"  crash:\n    fprocess: sh -c 'echo no database here >&2; exit 3'\n    environment: {mode: http}\n"+zero+
		"  missing:\n    fprocess: /nowhere/program\n    environment: {mode: http}\n"+zero+
		"  deaf:\n    fprocess: sleep 1000\n    environment: {mode: http}\n"+zero+
		"  far:\n    url: http://127.0.0.1:1\n", "WEIR_HOLD_TIMEOUT=3s")
	for _, name := range []string{"crash", "missing", "deaf", "far"} {
		t.Run(name, func(t *testing.T) {
			a := p.get("/function/" + name)
			a.check(t, http.StatusServiceUnavailable, "function "+name+".default", "within 3s")
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if name == "far" { // who may not see the address is told where it stands
				a.check(t, http.StatusServiceUnavailable, "/system/function/far.default says why")
				p.get("/system/function/far").check(t, http.StatusOK, `"state":"starting"`, `"reason":"dial tcp 127.0.0.1:1: connect: connection refused"`)
			}
		})
	}
	for _, pattern := range []string{
		`/nowhere/program: command not found`,
		`msg="calls refused" function=crash\.default`, `msg="calls refused" function=missing\.default`,
		`msg="calls refused" function=deaf\.default`, `msg="calls refused" function=far\.default`,
		// What the handler said, not what its watchdog says at each start.
		`ended with exit status 3 .*; its last words: \S+ \S+ stderr: no database here \|`,
	} {
		said := regexp.MustCompile(pattern)
		p.Until("the log has "+pattern, func() bool { return said.MatchString(p.Log.String()) })
	}
}

// TestNoCluster: without a cluster weir says so, serves, is not ready, and
// goes on trying.
func TestNoCluster(t *testing.T) {
	t.Parallel()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there
	text := strings.ReplaceAll(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://ADDRESS"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
users: [{name: u, user: {token: confidential}}]
`, "ADDRESS", l.Addr().String())
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := command(t, "WEIR_KUBECONFIG="+kubeconfig, "WEIR_NAMESPACE=fn", "WEIR_POD_NAME=me")
	p.Launch().Serving()
	p.get("/healthz").check(t, http.StatusServiceUnavailable)
	for _, path := range []string{"/function/hello", "/function/hello.fn/x", "/status-functions", "/system/functions"} {
		a := p.get(path)
		a.check(t, http.StatusServiceUnavailable, "not read yet")
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	a := p.get("/a", "Host: hello.fn")
	a.check(t, http.StatusServiceUnavailable)
	p.Until("the log says it", func() bool { return strings.Contains(p.Log.String(), "connection refused") })
	if !regexp.MustCompile(`level=(WARN|ERROR) .*` + regexp.QuoteMeta(l.Addr().String())).MatchString(p.Log.String()) {
		t.Error("the log does not name the API server")
	}
	if strings.Contains(p.Log.String(), "confidential") {
		t.Error("the token is in the log")
	}
}

// TestNoKubeconfig: where weir is in no pod and no kubeconfig is named.
func TestNoKubeconfig(t *testing.T) {
	t.Parallel()
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		t.Skip("in a pod")
	}
	p := command(t)
	p.Launch()
	p.Until("it serves or ends", func() bool { return p.Over() || p.Serves() })
	p.Until("it says what to set", func() bool { return strings.Contains(p.Log.String(), "WEIR_KUBECONFIG") })
	p = command(t, "WEIR_KUBECONFIG=/nowhere/kubeconfig")
	p.Launch()
	p.Until("it names the file", func() bool { return strings.Contains(p.Log.String(), "/nowhere/kubeconfig") })
}
