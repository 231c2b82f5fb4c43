package main_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// largest is how many bytes fwatchdog may take in an image.
const largest = 10_500_000

// buildah builds images into a store of the test's own.
type buildah struct{ env []string }

// newBuildah skips the test where images cannot be built.
func newBuildah(t testing.TB) *buildah {
	t.Helper()
	if testing.Short() {
		t.Skip("builds four programs and four images")
	}
	if os.Geteuid() != 0 {
		t.Skip("without a container engine only root can run what is in an image")
	}
	for _, program := range []string{"buildah", "make", "ldd"} {
		interpreter(t, program)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "store"), filepath.Join(dir, "run"))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// chroot and vfs need neither a user namespace nor overlayfs.
	return &buildah{env: []string{"CONTAINERS_STORAGE_CONF=" + conf, "STORAGE_DRIVER=vfs", "BUILDAH_ISOLATION=chroot"}}
}

// run is the output of a program that uses the store.
func (b *buildah) run(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), b.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, programtest.Clip(string(out)), programtest.Clip(stderr.String()))
	}
	return strings.TrimSpace(string(out))
}

// base makes an image of programs of this machine and what they are linked
// with: no base image can be pulled here.
func (b *buildah) base(t testing.TB, tag string, programs ...string) {
	t.Helper()
	context := t.TempDir()
	for _, name := range programs {
		path := interpreter(t, name)
		copyTree(t, path, filepath.Join(context, "bin", name))
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", path, err)
		}
		for _, library := range strings.Fields(string(out)) {
			if filepath.IsAbs(library) {
				copyTree(t, library, filepath.Join(context, library))
			}
		}
	}
	mkdir(t, filepath.Join(context, "tmp"))
	if err := os.Chmod(filepath.Join(context, "tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	b.fromScratch(t, tag, context, "ENV PATH=/usr/local/go/bin:/usr/bin:/bin GOPATH=/go GOMODCACHE=/modules GOCACHE=/cache GOTOOLCHAIN=local\n")
}

func (b *buildah) fromScratch(t testing.TB, tag, context, more string) {
	t.Helper()
	dockerfile := "FROM scratch\nCOPY . /\n" + more
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	b.run(t, "buildah", "build", "-q", "-t", tag, context)
}

// makeImage is `make image` for one architecture with the Go toolchain, the
// modules and the build cache of this machine, and no network.
func (b *buildah) makeImage(t testing.TB, tag, arch string) { b.make(t, "image", "IMAGE="+tag, arch) }

// make is one of the image targets; name is the variable that names the image,
// and its value.
func (b *buildah) make(t testing.TB, target, name, arch string) {
	t.Helper()
	var goEnv struct{ GOROOT, GOMODCACHE, GOCACHE string }
	if err := json.Unmarshal([]byte(b.run(t, "go", "env", "-json", "GOROOT", "GOMODCACHE", "GOCACHE")), &goEnv); err != nil {
		t.Fatal(err)
	}
	b.run(t, "make", target, "ENGINE=buildah", name, "PLATFORM=linux/"+arch, "GO_IMAGE=localhost/go",
		"VERSION="+programtest.Version, "COMMIT="+programtest.Commit,
		"IMAGE_FLAGS=--pull-never --build-arg GOPROXY=off"+
			" -v "+goEnv.GOROOT+":/usr/local/go:ro -v "+goEnv.GOMODCACHE+":/modules -v "+goEnv.GOCACHE+":/cache")
}

// container makes a container of an image; root is its file system.
func (b *buildah) container(t testing.TB, tag string) (name, root string) {
	t.Helper()
	name = b.run(t, "buildah", "from", "--pull-never", tag)
	return name, b.run(t, "buildah", "mount", name)
}

// imageSettings is the configuration of an image.
type imageSettings struct {
	Architecture string
	Config       struct {
		User       string
		Entrypoint []string
		Labels     map[string]string
	}
}

// settings reads the configuration of an image.
func (b *buildah) settings(t testing.TB, tag string) imageSettings {
	t.Helper()
	var all struct{ OCIv1 imageSettings }
	if err := json.Unmarshal([]byte(b.run(t, "buildah", "inspect", "--type", "image", tag)), &all); err != nil {
		t.Fatal(err)
	}
	return all.OCIv1
}

// TestImage builds the image with `make image` for both architectures, and a
// function's image from it, and runs what can run here.
func TestImage(t *testing.T) {
	t.Parallel()
	b := newBuildah(t)
	b.base(t, "localhost/go", "sh", "mkdir")
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		tag := "localhost/fwatchdog:" + arch
		b.makeImage(t, tag, arch)
		_, root := b.container(t, tag)
		describesItself(t, b.settings(t, tag), arch)
		for _, name := range []string{"fwatchdog", "fwatchdog-classic"} {
			staticProgram(t, filepath.Join(root, name), machine)
		}
		if arch == runtime.GOARCH {
			sameBytes(t, filepath.Join(root, "fwatchdog"))
			runsFromImage(t, root)
		}
	}
	runsFunction(t, b, "localhost/fwatchdog:"+runtime.GOARCH)
}

// TestImageOfWeir builds weir's image with `make image-weir` and runs it as what
// it is made for: no privileges, nothing else in it.
func TestImageOfWeir(t *testing.T) {
	t.Parallel()
	b := newBuildah(t)
	b.base(t, "localhost/go", "sh", "mkdir")
	const tag = "localhost/weir:test"
	b.make(t, "image-weir", "IMAGE_WEIR="+tag, runtime.GOARCH)
	s := b.settings(t, tag)
	if s.Config.User != "65532:65532" || len(s.Config.Entrypoint) != 1 || s.Config.Entrypoint[0] != "/weir" {
		t.Errorf("%+v", s)
	}
	_, root := b.container(t, tag)
	run := func(env ...string) (string, int) {
		cmd := inside(root, "/weir")
		if len(env) == 0 {
			cmd.Args = append(cmd.Args, "-version")
		}
		cmd.Env = env
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65532, Gid: 65532}
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := run(); code != 0 || !strings.Contains(out, programtest.Version) || !strings.Contains(out, programtest.Commit) {
		t.Errorf("-version: exit code %d, %q", code, out)
	}
	if out, code := run("WEIR_PROVIDER=nomad", "WEIR_LISTEN=8080"); code != 1 || strings.Count(out, "expected") != 2 {
		t.Errorf("bad settings: exit code %d, %q", code, out)
	}
}

func describesItself(t *testing.T, s imageSettings, arch string) {
	t.Helper()
	if s.Architecture != arch || s.Config.User != "12000" || len(s.Config.Entrypoint) != 1 || s.Config.Entrypoint[0] != "/fwatchdog" {
		t.Errorf("image for %s: %+v", arch, s)
	}
	for label, want := range map[string]string{"title": "fwatchdog", "version": programtest.Version, "revision": programtest.Commit, "licenses": "MIT"} {
		if got := s.Config.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
}

// staticProgram wants a stripped program for machine that asks for no loader.
func staticProgram(t *testing.T, path string, machine elf.Machine) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > largest || info.Mode().Perm() != 0o755 {
		t.Errorf("%s: %d bytes, mode %v; want at most %d, 0755", path, info.Size(), info.Mode(), largest)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine {
		t.Errorf("%s is for %v, want %v", path, f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: %v", path, p.Type)
		}
	}
	if f.Section(".symtab") != nil {
		t.Errorf("%s is not stripped", path)
	}
}

// sameBytes builds the program once more, in another folder, and wants what is
// in the image.
func sameBytes(t *testing.T, path string) {
	t.Helper()
	again := filepath.Join(t.TempDir(), "fwatchdog")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nethttpomithttp2", "-ldflags", programtest.LinkFlags+" -buildid=", "-o", again, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ours, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	built, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours, built) {
		t.Errorf("the image's program (%d bytes) is not what the same source gives elsewhere (%d bytes)", len(built), len(ours))
	}
}

// inside is a command with root as its file system and the image's user.
func inside(root string, args ...string) *exec.Cmd {
	return &exec.Cmd{
		Path: args[0], Args: args, Dir: "/", Env: []string{"PATH=/"}, // not TMPDIR of who runs the tests
		SysProcAttr: &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 12000, Gid: 12000}},
	}
}

// runsFromImage runs the program in the image itself, which has nothing else.
func runsFromImage(t *testing.T, root string) {
	t.Helper()
	out, err := inside(root, "/fwatchdog", "-version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), programtest.Version) || !strings.Contains(string(out), programtest.Commit) {
		t.Errorf("-version: %v, %q", err, out)
	}
	check := inside(root, "/fwatchdog", "-run-healthcheck")
	out, _ = check.CombinedOutput()
	if code := check.ProcessState.ExitCode(); code != 1 || string(out) != "unable to find lock file.\n" {
		t.Errorf("-run-healthcheck without a lock: exit code %d, %q", code, out)
	}
	w := launchCmd(t, inside(root, "/fwatchdog"), "mode=static", "static_path=/", "TMPDIR=/tmp")
	w.waitReady()
	if out, err := inside(root, "/fwatchdog", "-run-healthcheck").CombinedOutput(); err != nil {
		t.Errorf("-run-healthcheck with a lock: %v, %q", err, out)
	}
	w.stop()
}

// runsFunction builds the dockerfile template upon the image and runs it as a
// container: TERM drains it.
func runsFunction(t *testing.T, b *buildah, watchdog string) {
	t.Helper()
	b.base(t, "localhost/base", "sh", "cat")
	b.run(t, "buildah", "build", "-q", "--pull-never", "--format", "docker", "-t", "localhost/function",
		"--build-arg", "WATCHDOG_IMAGE="+watchdog, "--build-arg", "BASE_IMAGE=localhost/base",
		filepath.Join("templates", "dockerfile", "function"))
	name, root := b.container(t, "localhost/function")
	port, metrics := programtest.FreePort(t), programtest.FreePort(t)
	cmd := exec.Command("buildah", "run", "--network", "host",
		"-e", fmt.Sprint("port=", port), "-e", fmt.Sprint("metrics_port=", metrics), "-e", "healthcheck_interval=1ms",
		name, "fwatchdog")
	w := launchCmd(t, cmd, append(b.env, fmt.Sprint("port=", port))...)
	w.waitReady()
	if a := w.do("POST", "/", "hello", "Content-Type: text/plain"); a.StatusCode != 200 || a.body != "hello" {
		t.Errorf("POST: %d %q", a.StatusCode, a.body)
	}
	if _, err := os.Stat(filepath.Join(root, "tmp", ".lock")); err != nil {
		t.Errorf("lock file of the image's HEALTHCHECK: %v", err)
	}
	if out, err := inside(root, "/bin/sh", "-c", "[ -e /tmp/.lock ] || exit 1").CombinedOutput(); err != nil {
		t.Errorf("HEALTHCHECK: %v, %q", err, out)
	}
	// buildah passes no signals on, so the program itself is told.
	told := 0
	for _, p := range descendants(w.pid) {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid)); strings.HasSuffix(exe, "/usr/bin/fwatchdog") {
			syscall.Kill(p.pid, syscall.SIGTERM)
			told++
		}
	}
	if told != 1 {
		t.Fatalf("%d processes of the container are fwatchdog, want 1", told)
	}
	if code := w.wait(); code != 0 {
		t.Errorf("exit code %d after TERM, want 0", code)
	}
}
