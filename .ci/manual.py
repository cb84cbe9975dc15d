"""The manual page of the command, from what it says of itself."""
import json

EXIT = [('0', 'done'), ('1', 'parity below threshold'), ('64', 'a mistake in the command'), ('65', 'bad data in the source'), ('66', 'no such input'),
        ('70', 'a bug in recast'), ('71', 'no memory'), ('73', 'the output cannot be created'), ('74', 'reading or writing failed, or the disk is full'),
        ('75', 'interrupted: the same command goes on')]
ENVIRONMENT = [
    ('RECAST_MEMORY, RECAST_JOBS', 'what --memory and --jobs are where they are not given'),
    ('RECAST_CACHE, RECAST_CACHE_LIMIT', 'the directory of what was read over the network, or "off", and its largest size'),
    ('RECAST_KERNELS', 'the instruction set: plain, neon, avx2 or avx512; every one gives the same bytes'),
    ('HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE', 'as in huggingface_hub, for hf:// sources'),
    ('AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL', 'as in the AWS tools, for s3:// sources'),
    ('https_proxy, http_proxy, all_proxy, no_proxy', 'as in curl'),
]


def escape(text):
    """Text of a page: backslashes and dashes as they are, no line that begins a request."""
    text = text.replace('\\', '\\e').replace('-', '\\-').replace('`', '')
    return '\n'.join('\\&' + line if line[:1] in '.\'' else line for line in text.split('\n'))


def name(argument):
    if argument['kind'] == 'positional':
        return '\\fI' + escape(argument['valueName'].upper()) + '\\fR'
    names = [('\\-\\-' if each['kind'] == 'long' else '\\-') + escape(each['name']) for each in argument['names']]
    value = ' \\fI' + escape(argument['valueName']) + '\\fR' if argument['kind'] == 'option' else ''
    return ', '.join(f'\\fB{each}\\fR' for each in names) + value


def section(command, prefix):
    shown = [argument for argument in command.get('arguments', []) if argument.get('shouldDisplay', True)]
    positional = [argument for argument in shown if argument['kind'] == 'positional']
    words = ' '.join(name(argument) if not argument['isOptional'] else f'[{name(argument)}]' for argument in positional)
    lines = [f'.SS {prefix} {escape(command["commandName"])}', f'\\fB{prefix} {escape(command["commandName"])}\\fR {words} [options]', '.PP',
             escape(command.get('abstract', ''))]
    if command.get('discussion'):
        lines += ['.PP', escape(command['discussion'])]
    for argument in shown:
        if argument['kind'] != 'positional' and argument['names'][0]['name'] in ('help', 'version'):
            continue
        default = f' (default: {argument["defaultValue"]})' if argument.get('defaultValue') else ''
        lines += ['.TP', name(argument), escape(argument.get('abstract', '') + default)]
    return lines


def page(dump, version):
    """The page in roff's man macros. `dump` is what --experimental-dump-help prints."""
    root = json.loads(dump)['command']
    lines = [f'.TH RECAST 1 "" "recast {version}" "User commands"', '.SH NAME', f'recast \\- {escape(root["abstract"].rstrip("."))}', '.SH SYNOPSIS',
             '\\fBrecast\\fR \\fIcommand\\fR ...', '.SH COMMANDS']
    for command in root['subcommands']:
        if command['commandName'] != 'help' and command.get('shouldDisplay', True):
            lines += section(command, 'recast')
    lines.append('.SH EXIT STATUS')
    for code, text in EXIT:
        lines += ['.TP', f'\\fB{code}\\fR', escape(text)]
    lines.append('.SH ENVIRONMENT')
    for names, text in ENVIRONMENT:
        lines += ['.TP', f'\\fB{escape(names)}\\fR', escape(text)]
    return '\n'.join(lines) + '\n'
