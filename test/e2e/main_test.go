package e2e

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The environment that says where the tests run. README.md has the same.
const (
	envNode       = "E2E"            // 1: bring up a node on this machine; DIR:NETNS: take one that runs
	envBin        = "E2E_BIN"        // folder of cluster and kube/ instead of bin/ of the checkout
	envLong       = "E2E_LONG"       // 1: the long loops
	envReport     = "E2E_REPORT"     // file for the table of what was measured
	envLogs       = "E2E_LOGS"       // folder for what is kept of a failed run
	envKubeconfig = "E2E_KUBECONFIG" // another cluster
	envCluster    = "E2E_CLUSTER"    // its context's cluster name, so that nobody means another
	envImages     = "E2E_IMAGES"     // where that cluster finds the images: a prefix such as registry.example/e2e/
	envInside     = "E2E_INSIDE"     // set by the tests themselves, within the node's network
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	switch {
	case os.Getenv(envInside) != "":
		dir, _, _ := strings.Cut(os.Getenv(envInside), ":")
		return within(m, &cluster{dir: dir, kubeconfig: filepath.Join(dir, "admin.kubeconfig"), images: "weir/"})
	case os.Getenv(envKubeconfig) != "":
		return within(m, &cluster{kubeconfig: os.Getenv(envKubeconfig), images: os.Getenv(envImages)})
	case os.Getenv(envNode) != "":
		return outside()
	}
	return m.Run(), nil // every test skips
}

// within runs the tests on a cluster that is there.
func within(m *testing.M, c *cluster) (int, error) {
	if err := c.connect(); err != nil {
		return 1, err
	}
	the = c
	code := m.Run()
	c.remove()
	return code, measured.print()
}

// outside brings up a node, and runs these tests again within its network: a
// process of many threads cannot change its own.
func outside() (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("a node needs root, and this is uid %d: run it with sudo, or name a cluster by %s", os.Geteuid(), envKubeconfig)
	}
	n := &node{}
	if dir, netns, ok := strings.Cut(os.Getenv(envNode), ":"); ok {
		n.dir, n.netns = dir, netns
	} else {
		if err := n.up(); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, n.down(code == 0)) }()
	}
	if err := n.provide(); err != nil {
		return 1, err
	}
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + n.netns, os.Args[0]}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), envInside+"="+n.dir+":"+n.netns)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Ctrl-C reaches the tests too; this one stays to take the node down.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM)
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return 1, err
		}
		return max(1, exit.ExitCode()), nil
	}
	return 0, nil
}

// A node is a `cluster up`, which ends with its standard input.
type node struct {
	dir, netns string
	cmd        *exec.Cmd
	stdin      io.Closer
}

func (n *node) up() error {
	kube, err := program("kubectl")
	if err != nil {
		return err
	}
	tool, err := program("cluster")
	if err != nil {
		return err
	}
	if n.dir, err = os.MkdirTemp("", "weir-e2e-"); err != nil {
		return err
	}
	n.netns = fmt.Sprintf("weir-e2e-%d", os.Getpid())
	n.cmd = exec.Command(tool, "up", "-dir", n.dir, "-bin", filepath.Dir(kube), "-netns", n.netns)
	n.cmd.Stderr = os.Stderr
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	if n.stdin, err = n.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := n.cmd.Start(); err != nil {
		return err
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.HasPrefix(line, "ready ") {
		return errors.Join(fmt.Errorf("cluster up said %q: %w", line, cmp.Or(err, errors.New("want ready"))), n.down(false))
	}
	fmt.Printf("node is up after %.1f s\n", time.Since(begin).Seconds())
	return nil
}

// down ends the node. What it wrote stays where something failed.
func (n *node) down(clean bool) error {
	err := errors.Join(n.stdin.Close(), n.cmd.Wait())
	if clean {
		return errors.Join(err, os.RemoveAll(n.dir))
	}
	fmt.Printf("logs of the node: %s\n", n.dir)
	return err
}

// program finds one that `make e2e-deps` made.
func program(name string) (string, error) {
	bin := cmp.Or(os.Getenv(envBin), filepath.Join(root, "bin"))
	for _, path := range []string{filepath.Join(bin, name), filepath.Join(bin, "kube", name)} {
		if path, err := filepath.Abs(path); err == nil {
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("no %s in %s or its kube/: run make e2e-deps, or name the folder by %s", name, bin, envBin)
}

const root = "../.."

// provide builds what the images hold, from this checkout as it is, and gives
// the images to the node. Every folder below functions/ is a program NAME:
// weir/NAME:e2e runs it behind fwatchdog, weir/NAME-plain:e2e without.
func (n *node) provide() error {
	out, err := os.MkdirTemp("", "weir-e2e-bin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(out)
	folders, err := filepath.Glob("functions/*/main.go")
	if err != nil {
		return err
	}
	begin := time.Now()
	file := func(name string) string { return filepath.Join(out, name) + "=/" + name }
	if err := errors.Join(build(out, "fwatchdog", "."), build(out, "weir", "./cmd/weir"), build(out, "nats-server", "github.com/nats-io/nats-server/v2")); err != nil {
		return err
	}
	if err := errors.Join(n.image("weir", "-user", "65532", file("weir")), n.image("nats", "-user", "12000", file("nats-server"))); err != nil {
		return err
	}
	for _, f := range folders {
		name := filepath.Base(filepath.Dir(f))
		if err := build(out, name, "./test/e2e/functions/"+name); err != nil {
			return err
		}
		if err := errors.Join(
			n.image(name, "-user", "12000", "-entrypoint", "/fwatchdog", "-env", "mode=http", "-env", "fprocess=/"+name,
				"-env", "upstream_url=http://127.0.0.1:3000", file("fwatchdog"), file(name)),
			n.image(name+"-plain", "-user", "12000", "-env", "LISTEN=:8080", file(name)),
		); err != nil {
			return err
		}
	}
	fmt.Printf("programs built and images imported after %.1f s\n", time.Since(begin).Seconds())
	return nil
}

func build(out, name, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=e2e", "-o", filepath.Join(out, name), pkg)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

func (n *node) image(name string, args ...string) error {
	tool, err := program("cluster")
	if err != nil {
		return err
	}
	args = append([]string{"image", "-dir", n.dir, "-name", "weir/" + name + ":" + imageTag}, args...)
	if text, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("image %s: %w: %s", name, err, text)
	}
	return nil
}
