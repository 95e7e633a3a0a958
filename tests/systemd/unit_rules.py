"""What a unit may say on a device whose systemd is 237 (Ubuntu 18.04, JetPack 4).

An older systemd ignores a directive that it does not know, with a line in the log: protection is silently missing. A
group of system calls that it does not know is worse: an allow list with ``@system-service`` (239) then allows almost
nothing, and the service dies of SIGSYS. systemd-analyze of a newer machine finds neither.
"""

from typing import Dict, List, NamedTuple, Tuple

# Directives that 237 has, by section; of those that exist, the ones a unit of ours might ever want.
_UNIT = """
    Description Documentation Requires Requisite Wants BindsTo PartOf Conflicts Before After OnFailure OnFailureJobMode
    PropagatesReloadTo ReloadPropagatedFrom JoinsNamespaceOf RequiresMountsFor StopWhenUnneeded RefuseManualStart
    RefuseManualStop DefaultDependencies CollectMode JobTimeoutSec JobRunningTimeoutSec JobTimeoutAction
    StartLimitIntervalSec StartLimitBurst StartLimitAction RebootArgument ConditionArchitecture ConditionVirtualization
    ConditionHost ConditionKernelCommandLine ConditionKernelVersion ConditionSecurity ConditionCapability
    ConditionFirstBoot ConditionPathExists ConditionPathExistsGlob ConditionPathIsDirectory ConditionPathIsSymbolicLink
    ConditionPathIsMountPoint ConditionPathIsReadWrite ConditionDirectoryNotEmpty ConditionFileNotEmpty
    ConditionFileIsExecutable ConditionUser ConditionGroup
"""
_SERVICE = """
    Type RemainAfterExit GuessMainPID PIDFile ExecStart ExecStartPre ExecStartPost ExecReload ExecStop ExecStopPost
    RestartSec TimeoutStartSec TimeoutStopSec TimeoutSec RuntimeMaxSec WatchdogSec Restart SuccessExitStatus
    RestartPreventExitStatus RestartForceExitStatus NonBlocking NotifyAccess FailureAction
    KillMode KillSignal SendSIGHUP SendSIGKILL
    WorkingDirectory RootDirectory RootImage MountAPIVFS BindPaths BindReadOnlyPaths User Group DynamicUser
    SupplementaryGroups PAMName CapabilityBoundingSet AmbientCapabilities NoNewPrivileges SecureBits AppArmorProfile
    LimitCPU LimitFSIZE LimitDATA LimitSTACK LimitCORE LimitRSS LimitNOFILE LimitAS LimitNPROC LimitMEMLOCK LimitNICE
    LimitRTPRIO UMask KeyringMode OOMScoreAdjust Personality IgnoreSIGPIPE Nice CPUSchedulingPolicy
    CPUSchedulingPriority CPUAffinity IOSchedulingClass IOSchedulingPriority ProtectSystem ProtectHome RuntimeDirectory
    StateDirectory CacheDirectory LogsDirectory ConfigurationDirectory RuntimeDirectoryMode StateDirectoryMode
    CacheDirectoryMode LogsDirectoryMode ConfigurationDirectoryMode RuntimeDirectoryPreserve ReadWritePaths
    ReadOnlyPaths InaccessiblePaths PrivateTmp PrivateDevices PrivateNetwork PrivateUsers ProtectKernelTunables
    ProtectKernelModules ProtectControlGroups RestrictAddressFamilies RestrictNamespaces LockPersonality
    MemoryDenyWriteExecute RestrictRealtime RemoveIPC MountFlags SystemCallFilter SystemCallErrorNumber
    SystemCallArchitectures Environment EnvironmentFile PassEnvironment UnsetEnvironment StandardInput StandardOutput
    StandardError LogLevelMax LogExtraFields SyslogIdentifier SyslogFacility SyslogLevel SyslogLevelPrefix
    CPUAccounting CPUWeight StartupCPUWeight CPUShares CPUQuota MemoryAccounting MemoryLow MemoryHigh MemoryMax
    MemorySwapMax MemoryLimit TasksAccounting TasksMax IOAccounting IOWeight BlockIOAccounting BlockIOWeight
    IPAccounting IPAddressAllow IPAddressDeny DeviceAllow DevicePolicy Slice Delegate
"""
_PATH = "PathExists PathExistsGlob PathChanged PathModified DirectoryNotEmpty Unit MakeDirectory DirectoryMode"
_TIMER = """
    OnActiveSec OnBootSec OnStartupSec OnUnitActiveSec OnUnitInactiveSec OnCalendar AccuracySec RandomizedDelaySec Unit
    Persistent WakeSystem RemainAfterElapse
"""
OLD: Dict[str, List[str]] = {
    "Unit": _UNIT.split(),
    "Service": _SERVICE.split(),
    "Path": _PATH.split(),
    "Timer": _TIMER.split(),
    "Install": "Alias WantedBy RequiredBy Also DefaultInstance".split(),
}
_CALL_GROUPS = """
    @basic-io @clock @cpu-emulation @debug @file-system @io-event @ipc @keyring @module @mount @network-io @obsolete
    @privileged @process @raw-io @reboot @resources @swap
""".split()
_NEW_WORDS: Dict[str, Tuple[str, ...]] = {  # values that came later than their directive
    "Type": ("exec", "notify-reload"),
    "ProtectHome": ("tmpfs",),
    "StandardOutput": ("file:", "append:", "truncate:"),
    "StandardError": ("file:", "append:", "truncate:"),
}


class Directive(NamedTuple):
    """One line of a unit."""

    section: str
    name: str
    value: str
    line: int


def parse(text: str) -> List[Directive]:
    """The directives of a unit file; continued lines are joined.

    Raises:
        ValueError: a line that is none.
    """
    found: List[Directive] = []
    section, begun = "", ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith(("#", ";")) or not (line or begun):
            continue
        if line.endswith("\\"):
            begun += line[:-1] + " "
            continue
        line, begun = begun + line, ""
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        name, equals, value = line.partition("=")
        if not equals or not section:
            raise ValueError("line {}: {!r} is not a directive".format(number, raw))
        found.append(Directive(section, name.strip(), value.strip(), number))
    return found


def complaints(text: str) -> List[str]:
    """What systemd 237 would ignore in a unit, or choke on: one line each."""
    return [
        "line {}: {}".format(one.line, reason) for one in parse(text) for reason in _reasons(one)
    ]


def _reasons(one: Directive) -> List[str]:
    if one.name not in OLD.get(one.section, ()):
        return ["{}= in [{}] is not known to systemd 237".format(one.name, one.section)]
    reasons = []
    if one.name == "SystemCallFilter":
        groups = [word for word in one.value.lstrip("~").split() if word.startswith("@")]
        unknown = [group for group in groups if group not in _CALL_GROUPS]
        reasons += ["{} is no group of calls of systemd 237".format(group) for group in unknown]
    if one.value.startswith(_NEW_WORDS.get(one.name, ("\0",))):
        reasons.append("{}={} is not known to systemd 237".format(one.name, one.value))
    return reasons
