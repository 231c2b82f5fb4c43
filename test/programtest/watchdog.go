package programtest

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-run/weir/contract"
)

// Watchdog is a fwatchdog that runs.
type Watchdog struct {
	*Program
	Port, MetricsPort int
	// Addr is where it listens; URL has no last slash, MetricsURL is the page's.
	Addr, URL, MetricsURL string
	// Dir is its TMPDIR, where its lock is.
	Dir string
}

// StartWatchdog starts the built fwatchdog with PATH, a TMPDIR, free ports and
// env in its environment, of which the last of a name wins; what is set to
// nothing is left out. It does not wait.
func StartWatchdog(t testing.TB, env ...string) *Watchdog {
	t.Helper()
	return StartWatchdogBy(t, exec.Command(BuildFwatchdog(t)), env...)
}

// StartWatchdogBy is StartWatchdog for a command that starts one in the end.
func StartWatchdogBy(t testing.TB, cmd *exec.Cmd, env ...string) *Watchdog {
	t.Helper()
	w := &Watchdog{Dir: t.TempDir()}
	cmd.Env = lastWins(append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + w.Dir,
		"TMPDIR=" + w.Dir,
		"port=" + strconv.Itoa(FreePort(t)),
		"metrics_port=" + strconv.Itoa(FreePort(t)),
	}, env...))
	for _, e := range cmd.Env {
		switch name, value, _ := strings.Cut(e, "="); name {
		case "port":
			w.Port, _ = strconv.Atoi(value)
		case "metrics_port":
			w.MetricsPort, _ = strconv.Atoi(value)
		}
	}
	w.Addr = address(w.Port)
	w.URL, w.MetricsURL = "http://"+w.Addr, "http://"+address(w.MetricsPort)+"/metrics"
	w.Program = Start(t, cmd)
	return w
}

// Ready waits until it says that it is.
func (w *Watchdog) Ready() *Watchdog {
	w.t.Helper()
	Eventually(w.t, "fwatchdog is ready", func() bool {
		if w.Over() {
			w.t.Fatalf("fwatchdog ended with %d before it was ready", w.Code())
		}
		return answers(w.URL + contract.ReadyPath)
	})
	return w
}

// lastWins drops the entries of an environment that a later one replaces, and
// those that are set to nothing.
func lastWins(env []string) []string {
	var out []string
	seen := map[string]bool{}
	for i := len(env) - 1; i >= 0; i-- {
		name, value, _ := strings.Cut(env[i], "=")
		if !seen[name] && value != "" {
			out = append(out, env[i])
		}
		seen[name] = true
	}
	return out
}
