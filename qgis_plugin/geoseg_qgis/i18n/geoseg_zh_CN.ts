<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="zh_CN" sourcelanguage="en">
  <context>
    <name>geoseg</name>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Canceled; no output was touched.</source>
      <translation>已取消；未改动任何输出文件。</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{model} on {device}</source>
      <translation>{model}，运行于 {device}</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{done} of {tiles}, {left} left</source>
      <translation>已完成 {done}/{tiles} 个切片，剩余 {left}</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{n} s</source>
      <translation>{n} 秒</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{n} min</source>
      <translation>{n} 分钟</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{h} h {n} min</source>
      <translation>{h} 小时 {n} 分钟</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Model</source>
      <translation>模型</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Simplify outlines by up to (m)</source>
      <translation>轮廓简化容差（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Straight outlines with right angles, moved by up to (m)</source>
      <translation>轮廓规则化（直边、直角），最大偏移（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Drop polygons smaller than (m²)</source>
      <translation>删除面积小于此值的多边形（平方米）</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Segment a raster</source>
      <translation>栅格影像分割</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Finds what the model knows (buildings, land cover, your own classes) in a raster of any size and writes polygons, each with its class, confidence and area. The raster is resampled to the model's resolution; bands or values that do not fit are reported. The engine must be set up once: Raster ▸ geoseg ▸ Engine and models.</source>
      <translation>在任意大小的栅格影像中识别模型所认识的地物（建筑物、土地覆盖或您自己的类别），输出多边形要素，每个要素带有类别、置信度和面积。影像会重采样到模型的地面分辨率；波段或像元值不匹配时会给出提示。引擎只需设置一次：栅格 ▸ geoseg ▸ 引擎与模型。</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Image</source>
      <translation>影像</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Only this extent</source>
      <translation>仅处理此范围</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Only inside these polygons</source>
      <translation>仅处理这些多边形之内</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Cut objects apart where narrower than (m)</source>
      <translation>在窄于此宽度处切分对象（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Decision level, instead of the model's</source>
      <translation>判定阈值（代替模型自带的阈值）</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Bands of the image for the model's: 4,3,2</source>
      <translation>与模型波段对应的影像波段，如 4,3,2</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Values that become the model's range: auto, none, or LOW,HIGH</source>
      <translation>拉伸到模型取值范围的像元值：auto、none 或 最小值,最大值</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Size of the image's pixels (m), if it is wrong or missing</source>
      <translation>影像的地面分辨率（米），缺失或有误时填写</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Edge of the tiles (px)</source>
      <translation>切片边长（像素）</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Device: auto, cpu, cuda, mps</source>
      <translation>计算设备：auto、cpu、cuda、mps</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Polygons</source>
      <translation>多边形</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Classes as a raster</source>
      <translation>分类栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Probabilities</source>
      <translation>概率栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Choose an extent or polygons, not both.</source>
      <translation>范围和多边形只能选择其一。</translation>
    </message>
    <message>
      <location filename="../inputs.py" />
      <source>{layer} comes from {provider}, not from a file. Choose it in geoseg's dock, which renders such layers, or export it to a GeoTIFF first.</source>
      <translation>图层 {layer} 来自 {provider}，而不是文件。请在 geoseg 面板中选择它（面板会先渲染此类图层），或先将其导出为 GeoTIFF。</translation>
    </message>
    <message>
      <location filename="../plugin.py" />
      <source>Segment this layer</source>
      <translation>分割此图层</translation>
    </message>
    <message>
      <location filename="../plugin.py" />
      <source>Engine and models …</source>
      <translation>引擎与模型…</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>geoseg: engine and models</source>
      <translation>geoseg：引擎与模型</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Engine</source>
      <translation>引擎</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Models</source>
      <translation>模型</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Copy diagnostics</source>
      <translation>复制诊断信息</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>geoseg: looking at the engine</source>
      <translation>geoseg：正在检查引擎</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Gathering …</source>
      <translation>正在收集…</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>geoseg: diagnostics</source>
      <translation>geoseg：诊断信息</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>The diagnostics are on the clipboard.</source>
      <translation>诊断信息已复制到剪贴板。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>found by itself</source>
      <translation>自动查找</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>A Python that has geoseg, the geoseg command, or the folder of an environment</source>
      <translation>已安装 geoseg 的 Python、geoseg 命令，或 Python 环境所在的文件夹</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Use</source>
      <translation>使用</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Another engine:</source>
      <translation>其他引擎：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Private environment</source>
      <translation>专用环境</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>CPU</source>
      <translation>CPU</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>NVIDIA GPU (CUDA)</source>
      <translation>NVIDIA 显卡（CUDA）</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>the package index</source>
      <translation>在线软件包索引</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>a folder of wheels:</source>
      <translation>本地 wheel 文件夹：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Runs on:</source>
      <translation>运行于：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Packages from:</source>
      <translation>软件包来源：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Set up</source>
      <translation>安装</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Remove</source>
      <translation>移除</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Advanced</source>
      <translation>高级</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>What pip installs: a name with or without version, a wheel, a folder, an address</source>
      <translation>pip 要安装的内容：包名（可带版本号）、wheel 文件、文件夹或网址</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>none</source>
      <translation>无</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>The address of a second index, for PyTorch's builds for one device only. The common index has CUDA's build on Linux (several GB) and the CPU's elsewhere.</source>
      <translation>第二个软件包索引的网址，用于获取只面向某一种设备的 PyTorch。默认索引在 Linux 上提供 CUDA 版（数 GB），在其他系统上提供 CPU 版。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>geoseg itself:</source>
      <translation>geoseg 本身：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Index for PyTorch:</source>
      <translation>PyTorch 索引：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Folder:</source>
      <translation>文件夹：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Cancel</source>
      <translation>取消</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Looking for the engine …</source>
      <translation>正在查找引擎…</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>No engine yet.</source>
      <translation>尚未安装引擎。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>The engine is ready.</source>
      <translation>引擎已就绪。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>geoseg: setting up the engine</source>
      <translation>geoseg：正在安装引擎</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Remove the environment</source>
      <translation>移除环境</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Delete {folder} and all packages in it?</source>
      <translation>删除 {folder} 及其中的所有软件包吗？</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>{folder} is removed.</source>
      <translation>已移除 {folder}。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>geoseg: removing the engine</source>
      <translation>geoseg：正在移除引擎</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Canceled; all is as it was before.</source>
      <translation>已取消；一切恢复原状。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Repair or update</source>
      <translation>修复或更新</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Versions</source>
      <translation>版本</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Runs on</source>
      <translation>运行于</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>no device</source>
      <translation>没有可用设备</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>The plugin is version {ours}, the engine {theirs}: update the engine (Repair or update), or the plugin.</source>
      <translation>插件版本为 {ours}，引擎版本为 {theirs}：请更新引擎（点击“修复或更新”）或更新插件。</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Name</source>
      <translation>名称</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Version</source>
      <translation>版本</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Pixel size (m)</source>
      <translation>地面分辨率（米）</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Bands</source>
      <translation>波段</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Classes</source>
      <translation>类别</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>folder, zip, web address, or owner/name</source>
      <translation>文件夹、zip 文件、网址，或 所有者/名称</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>A model's folder or zip, the address of a zip, or a Hugging Face repository</source>
      <translation>模型的文件夹或 zip 文件、zip 的网址，或 Hugging Face 仓库</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Add</source>
      <translation>添加</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Add a model:</source>
      <translation>添加模型：</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Folder …</source>
      <translation>文件夹…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Zip …</source>
      <translation>zip 文件…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Getting and checking the model …</source>
      <translation>正在获取并检查模型…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Removing …</source>
      <translation>正在移除…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>geoseg: models</source>
      <translation>geoseg：模型</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>A model's folder</source>
      <translation>模型的文件夹</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>A model's zip</source>
      <translation>模型的 zip 文件</translation>
    </message>
  </context>
</TS>
