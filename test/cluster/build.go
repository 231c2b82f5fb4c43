package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// kubernetesVersion is the last minor release that works with containerd 1.x,
// which is what Debian 12 has. kubernetes/go.mod requires the same.
const kubernetesVersion = "v1.35.4"

// A source is a program that is built from a module below this folder.
type source struct {
	name    string // in the bin folder
	module  string // folder of the go.mod, below this program's source
	pkg     string // main package
	ldflags string
}

func sources() []source {
	const version = " -X k8s.io/component-base/version."
	kube := "-s -w" + version + "gitVersion=" + kubernetesVersion + version + "gitMajor=1" + version + "gitMinor=35"
	all := []source{{name: "pause", module: ".", pkg: "github.com/weir-run/weir/test/cluster/pause", ldflags: "-s -w"}}
	for _, name := range []string{"kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"} {
		all = append(all, source{name, "kubernetes", "k8s.io/kubernetes/cmd/" + name, kube})
	}
	return append(all,
		source{"helm", "helm", "helm.sh/helm/v3/cmd/helm", "-s -w"},
		source{"faas-cli", "faas-cli", "github.com/openfaas/faas-cli", "-s -w"},
	)
}

func buildCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	bin := flags.String("bin", "", "")
	src := flags.String("src", sourceFolder(), "")
	only := flags.String("only", "", "")
	if err := parse(flags, args, "bin"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(*src, "kubernetes", "go.mod")); err != nil {
		return fmt.Errorf("the source of this program is not at %q (%w): give -src, the folder test/cluster of the checkout", *src, err)
	}
	out, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("bin folder: %w", err)
	}
	unlock, err := lock(filepath.Join(out, ".lock"), true)
	if err != nil {
		return fmt.Errorf("wait for another build into %s: %w", out, err)
	}
	defer unlock()
	chosen := sources()
	if *only != "" {
		names := strings.Split(*only, ",")
		chosen = slices.DeleteFunc(chosen, func(s source) bool { return !slices.Contains(names, s.name) })
		if len(chosen) != len(names) {
			return fmt.Errorf("-only %s names a program that this does not build", *only)
		}
	}
	for _, s := range chosen {
		if err := s.build(ctx, *src, out); err != nil {
			return err
		}
	}
	return nil
}

// sourceFolder is where this program was compiled from.
func sourceFolder() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// build makes the program unless the one in bin is of the same version.
func (s source) build(ctx context.Context, src, bin string) error {
	dir, out := filepath.Join(src, s.module), filepath.Join(bin, s.name)
	want, err := s.version(ctx, dir)
	if err != nil {
		return err
	}
	if builtVersion(out) == want && s.module != "." {
		fmt.Printf("%-24s %s is there\n", s.name, want)
		return nil
	}
	start := time.Now()
	// A file of its own, renamed: a build that is killed leaves no half
	// program, and one that runs is not written over.
	part := out + ".part"
	defer os.Remove(part)
	if _, err := goTool(ctx, dir, "build", "-p", "2", "-trimpath", "-ldflags", s.ldflags, "-o", part, s.pkg); err != nil {
		return fmt.Errorf("build %s %s: %w", s.name, want, err)
	}
	if err := os.Rename(part, out); err != nil {
		return err
	}
	fmt.Printf("%-24s %s built in %s\n", s.name, want, time.Since(start).Round(time.Second))
	return nil
}

// version is what the module requires, as builtVersion reads it back.
func (s source) version(ctx context.Context, dir string) (string, error) {
	out, err := goTool(ctx, dir, "list", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", s.pkg)
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", s.name, err)
	}
	v, err := goTool(ctx, dir, "env", "GOVERSION")
	return strings.TrimSpace(out) + " " + strings.TrimSpace(v), err
}

func builtVersion(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return ""
	}
	root, _, _ := strings.Cut(info.Path, "/cmd/")
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == root {
			return m.Path + " " + m.Version + " " + info.GoVersion
		}
	}
	return ""
}

func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	// An interrupted go build ends its compilers itself.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], dir, err, exit.Stderr)
	}
	return string(out), err
}
